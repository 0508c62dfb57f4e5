"""The service in the benchmark: every role is a process, and the scripted engine takes no time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy.orm import Session

from bench.design import STEPS, Design
from bench.tap import Binding
from shared.bus.topology import QUEUES, Topology
from shared.domain.options import Options
from shared.policies.threshold import Threshold
from shared.settings import Settings
from shared.store.database import wake_orchestrators
from shared.store.rows import options_values
from shared.store.tables import Problem
from stack.roles import ROLES, Roles
from stack.scratch import scratch_database, scratch_prefix, scratch_queues

POLICY = Threshold(threshold=0.5)

SCRIPT = {
    "default": [{"small": f"Step {index} is written.", "score": 0.9} for index in range(STEPS - 1)]
    + [{"small": "The answer is \\boxed{7}.", "score": 0.9}]
}
"""Every step is accepted."""


class Service(Design):
    """This service. The benchmark inserts problems as the api does, without running the api."""

    problem_table = "problems"
    step_table = "steps"

    def submit(self, count: int, *, lookahead: int) -> None:
        """Submit new problems and wake the orchestrator."""
        options = Options(plan=POLICY.plan, lookahead=lookahead)
        with Session(self.engine) as session, session.begin():
            session.add_all(_problem(uuid4(), options) for _ in range(count))
            wake_orchestrators(session, to="admit")

    def bindings(self) -> Sequence[Binding]:
        """List everything that the service publishes: commands, events, dead letters and cancels."""
        topology = Topology(self.settings.queue_prefix)
        queues = [queue for role in QUEUES for queue in (topology.queue(role), topology.dead_letters(role))]
        return [*((queue.exchange.name, queue.routing_key) for queue in queues), (topology.cancels.name, "")]


@contextmanager
def running_service(server_url: str, broker_url: str, *, window: int) -> Iterator[Service]:
    """Run the service for the duration of the block.

    Args:
        server_url: Database of a server on which others can be created.
        broker_url: URL of RabbitMQ.
        window: Maximum number of problems that run at a time.
    """
    with tempfile.TemporaryDirectory() as folder, scratch_database(server_url) as database_url:
        settings = Settings(
            database_url=SecretStr(database_url), broker_url=SecretStr(broker_url), queue_prefix=scratch_prefix()
        )
        script = Path(folder) / "script.json"
        script.write_text(json.dumps(SCRIPT))
        environment = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker_url,
            "TRIM_QUEUE_PREFIX": settings.queue_prefix,
            "TRIM_ENGINE": "scripted",
            "TRIM_SCRIPT": str(script),
            "TRIM_WINDOW": str(window),
            "TRIM_LOG_LEVEL": "warning",
        }
        roles = {role: ROLES[role] for role in ("orchestrator", "small", "prm", "large")}
        with (
            scratch_queues(settings),
            Roles(environment, Path(folder), roles=roles) as running,
            closing(Service(settings, running)) as service,
        ):
            yield service


def _problem(problem_id: UUID, options: Options) -> Problem:
    return Problem(
        id=problem_id,
        question=f"What is problem {problem_id}?",
        policy=POLICY.name,
        policy_revision=POLICY.revision,
        policy_parameters=POLICY.model_dump(),
        options=options_values(options),
        pending=[],
    )
