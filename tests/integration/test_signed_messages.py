"""The service with keys, on either broker: a program that can write to its queues forges nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import UUID

import pytest

from chaos.deployment import Deployment, deployed
from shared.bus.publisher import Publisher
from shared.bus.signing import MessageKeys
from shared.domain.roles import Author
from shared.messages import CancelWork, GenerateSteps, StepsGenerated, WorkerSeen
from tests.integration.test_recovery import SCRIPT, SOLUTION
from tests.unit.worker.working import golden

pytestmark = pytest.mark.servers

OLD, NEW = f"old:{'o' * 32}", f"new:{'n' * 32}"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, module_servers: dict[str, str]) -> Iterator[Deployment]:
    """In the middle of a rotation: some processes sign with the old key, others with the new one."""
    own = {"orchestrator": {"message_keys": f"{NEW},{OLD}"}, "small": {"message_keys": f"{NEW},{OLD}"}}
    folder = tmp_path_factory.mktemp("service")
    with deployed(folder, **module_servers, script=SCRIPT, own=own, message_keys=f"{OLD},{NEW}") as running:
        yield running


def test_a_forgery_changes_nothing_and_is_found_among_the_dead_letters(deployment: Deployment) -> None:
    ids = deployment.submit(8)
    rows = deployment.finish(ids)
    forged = [
        golden(StepsGenerated, problem_id=UUID(ids[0])),
        golden(WorkerSeen, worker="intruder"),
        golden(GenerateSteps, author=Author.LARGE, problem_id=UUID(ids[0])),
    ]
    unsigned = deployment.settings.model_copy(update={"message_keys": None})
    with closing(Publisher(unsigned)) as publisher:
        publisher.publish([*forged, golden(CancelWork)])
    deployment.until(lambda: deployment.dead_letters() == {"events": 2, "large": 1, "small": 0, "prm": 0})
    deployment.until(lambda: "broadcast_dropped" in deployment.log("large"))
    assert deployment.rows("SELECT 1 FROM processes WHERE name = 'intruder'") == []
    assert deployment.problems(ids) == rows
    assert [deployment.trajectory(each) for each in ids] == [SOLUTION] * len(ids)
    assert MessageKeys.of(deployment.settings).sign(b""), "the deployment has keys"
