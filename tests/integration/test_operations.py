"""Pages for operators, tried on a running service: its tables are partitioned under load, and its queries run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

import migrations
from chaos.deployment import Deployment, deployed
from cli.app import app
from migrations.verifying import verify
from shared.store.database import Database
from stack.scratch import scratch_database
from tests.integration.test_recovery import PROBLEMS, SCRIPT, SOLUTION
from tests.integration.test_retention import DECISIONS, SHADOWS, STEPS, run

pytestmark = pytest.mark.servers

PAGES = Path(__file__).resolve().parents[2] / "docs" / "operations"
SHADOWED = {"lookahead": 4, "shadows": [{"name": "small-only"}]}


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: str, rabbitmq_server: str
) -> Iterator[Deployment]:
    with (
        scratch_database(postgres_server) as url,
        deployed(
            tmp_path_factory.mktemp("operations"), database_url=url, broker_url=rabbitmq_server, script=SCRIPT
        ) as running,
    ):
        yield running


def in_years(block: str, *, years: int) -> str:
    """Move the months of a block, and the ids with which they begin, into later years."""
    block = re.sub(r"2027(?=[-_])", str(2027 + years), block)
    block = block.replace("before_2027", f"before_{2027 + years}")

    def moved(found: re.Match[str]) -> str:
        month = datetime.fromtimestamp(int(found[0].replace("-", "")[:12], 16) / 1000, UTC)
        later = int(month.replace(year=month.year + years).timestamp() * 1000)
        digits = f"{later:012x}".ljust(32, "0")
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-0000-0000-0{12}", moved, block)


def test_tables_are_partitioned_under_load(deployment: Deployment) -> None:
    years = max(0, datetime.now(UTC).year - 2026)
    ids = deployment.submit(PROBLEMS, **SHADOWED)
    deployment.until(lambda: len(deployment.rows("SELECT 1 FROM steps")) >= PROBLEMS)
    with closing(Database(deployment.database_url)) as database:
        for block in (*DECISIONS, *STEPS, *SHADOWS):
            run(database, in_years(block, years=years))
            ids += deployment.submit(1, **SHADOWED)
        ids += deployment.submit(PROBLEMS, **SHADOWED)
    rows = deployment.finish(ids)
    assert {row["status"] for row in rows} == {"succeeded"}
    assert [deployment.trajectory(each) for each in ids] == [SOLUTION] * len(ids)
    lines: list[str] = []
    assert verify(deployment.settings, allow_open=False, tell=lines.append), lines
    with closing(Database(deployment.database_url)) as database:
        for block in (DECISIONS[-1], STEPS[-1], SHADOWS[-1]):
            [table] = re.findall(r"DETACH PARTITION (\w+)", in_years(block, years=years))
            run(database, f"DROP TABLE {table}")
    migrations.check(deployment.database_url)


def queries_of(page: str) -> list[str]:
    return re.findall(r"```sql\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)


def test_the_queries_of_the_pages_on_workers_show_who_works(deployment: Deployment) -> None:
    deployment.finish(deployment.submit(2))
    processes, statuses = queries_of("draining.md")
    [writers] = queries_of("adding-workers.md")
    assert {"orchestrator", "small", "large", "prm"} <= {row["role"] for row in deployment.rows(processes)}
    assert deployment.rows(statuses) == []
    assert {row["worker"] for row in deployment.rows(writers)} == {"small-0", "large-0"}


def test_the_command_of_the_page_on_verifying_passes(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    [command] = re.findall(r"^    trim (.*)$", (PAGES / "verifying.md").read_text(), re.MULTILINE)
    monkeypatch.setenv("TRIM_DATABASE_URL", deployment.database_url)
    monkeypatch.setenv("TRIM_BROKER_URL", deployment.settings.require_broker_url())
    monkeypatch.setenv("TRIM_QUEUE_PREFIX", deployment.settings.queue_prefix)
    deployment.submit(1)
    done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert (done.exit_code, "BROKEN" in done.stdout) == (0, False), done.output
