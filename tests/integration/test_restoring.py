"""The database goes back to an earlier time while problems are being solved: all that it knows are solved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

import migrations
from chaos.cluster import Cluster, private_cluster
from chaos.deployment import Deployment, deployed
from migrations.verifying import verify
from shared.bus.connection import connect
from shared.bus.topology import QUEUES, Topology
from shared.settings import Settings
from stack.client import ApiRefused
from tests.integration.pages import shell_blocks
from tests.integration.test_recovery import PROBLEMS, SCRIPT, SOLUTION

pytestmark = pytest.mark.servers

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations" / "backup-and-restore.md").read_text()
[ARCHIVING] = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
TAKE_BASE_BACKUP, RESTORE, PURGE, DUMP = shell_blocks(PAGE)
CHOICES = {"lookahead": 4, "step_timeout_s": 2}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with private_cluster() as made:
        made.start(ARCHIVING)
        migrations.upgrade(made.url)
        yield made


@pytest.fixture
def deployment(cluster: Cluster, tmp_path: Path, rabbitmq_server: str) -> Iterator[Deployment]:
    with deployed(
        tmp_path, database_url=cluster.url, broker_url=rabbitmq_server, script=SCRIPT, window="12"
    ) as running:
        yield running


def read_clock(deployment: Deployment) -> datetime:
    [row] = deployment.rows("SELECT clock_timestamp() AS now")
    return row["now"]  # type: ignore[no-any-return]


def restore(cluster: Cluster, moment: datetime) -> None:
    changed, count = re.subn(r"(?<=recovery_target_time = ').*(?=')", str(moment), RESTORE)
    assert count == 1
    cluster.run(changed)


def purge(settings: Settings) -> None:
    """Purge the queues that the page names."""
    named = re.search(r"for role in (.*); do rabbitmqctl .* purge_queue \"trim\.\$role\"", PURGE)
    assert named is not None
    assert set(named[1].split()) == set(QUEUES)
    with closing(connect(settings)) as connection:
        for role in QUEUES:
            Topology(settings.queue_prefix).queue(role)(connection.default_channel).purge()


def verified(settings: Settings, **changed: str) -> list[str]:
    """Return the lines of the checks that failed."""
    lines: list[str] = []
    verify(Settings.model_validate(settings.model_dump() | changed), allow_open=False, tell=lines.append)
    assert len(lines) > 10
    return [line for line in lines if line.startswith("FAILED")]


@pytest.mark.parametrize("is_prepared", [True, False], ids=["restored as documented", "failed over, nothing stopped"])
def test_problems_are_solved_after_the_database_went_back_in_time(
    cluster: Cluster, deployment: Deployment, is_prepared: bool
) -> None:
    cluster.run(TAKE_BASE_BACKUP)
    ids = deployment.submit(PROBLEMS, **CHOICES)
    deployment.until(lambda: len(deployment.rows("SELECT 1 FROM steps WHERE step = 1")) >= PROBLEMS // 2)
    moment = read_clock(deployment)
    open_then = [str(row["id"]) for row in deployment.problems(ids) if row["finished_at"] is None]
    assert open_then, "too late"
    late = [{"question": "Submitted too late?", "reference": "7"}]
    lost = deployment.api.submit(late, CHOICES, key="late")
    deployment.finish(ids)
    cluster.archive_all()
    crashed_at = read_clock(deployment)

    if is_prepared:
        for role in ("api", "orchestrator"):
            assert deployment.roles.stop(role) == 0
    cluster.crash()
    restore(cluster, moment)
    if is_prepared:
        purge(deployment.settings)
        for role in ("orchestrator", "api"):
            deployment.roles.start(role)
        deployment.api.wait_until_ready(deployment.roles.check)

    with pytest.raises(ApiRefused, match="404"):
        deployment.api.batch(lost)
    deployment.api.submit(late, CHOICES, key="late")
    deployment.until(lambda: not deployment.rows("SELECT 1 FROM problems WHERE finished_at IS NULL"))
    assert all(row["finished_at"] > crashed_at for row in deployment.problems(open_then)), "each was solved again"
    rows = deployment.rows("SELECT id, status, answer FROM problems")
    assert {(row["status"], row["answer"]) for row in rows} == {("succeeded", "7")}
    assert len(rows) == PROBLEMS + 1
    assert [deployment.trajectory(str(row["id"])) for row in rows] == [SOLUTION] * (PROBLEMS + 1)
    failed = verified(deployment.settings)
    assert [line for line in failed if is_prepared or "dead letter" not in line] == []


def test_a_dump_is_restored_into_another_database(cluster: Cluster, deployment: Deployment) -> None:
    ids = deployment.submit(2, **CHOICES)
    deployment.finish(ids)
    cluster.run(DUMP)
    restored = cluster.url.replace("/trim?", "/trim_restored?")
    migrations.check(restored)
    assert verified(deployment.settings, database_url=restored) == []
