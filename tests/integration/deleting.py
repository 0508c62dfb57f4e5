"""Deletes exchanges and queues of a deployment on RabbitMQ while it works."""

from __future__ import annotations

from kombu.entity import Exchange, Queue
from pydantic import SecretStr

from chaos.deployment import Deployment
from shared.bus.connection import connect
from shared.bus.topology import Topology
from shared.settings import Settings

PROBLEMS = 6
STEPS = 5
SCRIPT = {
    "default": [
        *({"small": f"Step {index}.", "large": f"Step {index}, as it should be.", "small_ms": 60, "large_ms": 60,
           "score": 0.1 if index == 2 else 0.9, "prm_ms": 30} for index in range(STEPS - 1)),
        {"small": "So it is \\boxed{7}.", "small_ms": 60, "prm_ms": 30},
    ],
    "problems": {"Endless?": [{"small": "On and on.", "small_ms": 3_600_000}]},
}  # fmt: skip


def delete(broker_url: str, entity: Exchange | Queue) -> None:
    """Delete an exchange or a queue with what is in it."""
    connection = connect(Settings(broker_url=SecretStr(broker_url)))
    try:
        entity(connection.default_channel).delete()
    finally:
        connection.release()


def delete_each_under_load(deployment: Deployment, broker_url: str) -> None:
    """Delete each exchange and queue in turn while problems are solved, and check that all are solved.

    Args:
        deployment: The deployment.
        broker_url: URL of a user who may delete.
    """
    of_these = "SELECT 1 FROM steps WHERE problem_id = ANY(%s::uuid[])"
    for entity in Topology(deployment.settings.queue_prefix).entities:
        ids = deployment.submit(PROBLEMS, lookahead=2, step_timeout_s=2, max_attempts=20)
        deployment.until(lambda ids=ids: deployment.rows(of_these, ids))  # type: ignore[misc]
        delete(broker_url, entity)
        assert any(row["status"] == "running" for row in deployment.problems(ids)), "too late"
        assert {row["status"] for row in deployment.finish(ids)} == {"succeeded"}, entity.name
        deployment.roles.check()


def check_workers_hear_cancels(deployment: Deployment) -> None:
    """Check that a cancelled problem frees its worker, which carries out one command at a time."""
    endless = deployment.submit_all([{"question": "Endless?"}], step_timeout_s=3600)
    deployment.until(lambda: deployment.problems(endless)[0]["status"] == "running")
    waiting = deployment.submit(1)
    deployment.api.cancel(endless[0])
    [solved] = deployment.finish(waiting, patience_s=60)
    assert solved["status"] == "succeeded"
