"""The service in the benchmark: every role is a process, and the scripted engine takes no time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
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

MEASURED: Mapping[str, Sequence[str]] = {role: ROLES[role] for role in ("orchestrator", "small", "prm", "large")}
"""Roles that run in the benchmark."""


class Service(Design):
    """This service. The benchmark inserts problems as the api does, without running the api."""

    problem_table = "problems"
    step_table = "steps"

    def submit(self, count: int, *, lookahead: int) -> None:
        """Submit new problems and wake the orchestrator."""
        options = Options(plan=POLICY.plan, lookahead=lookahead)
        ids = [uuid4() for _ in range(count)]
        self.insert([make_problem(each, options, question=f"What is problem {each}?") for each in ids])

    def insert(self, problems: Sequence[Problem]) -> None:
        """Store problems and wake the orchestrators, in one transaction."""
        with Session(self.engine) as session, session.begin():
            session.add_all(problems)
            wake_orchestrators(session, to="admit")

    def bindings(self) -> Sequence[Binding]:
        """List everything that the service publishes: commands, events, dead letters and cancels."""
        topology = Topology(self.settings.queue_prefix)
        queues = [queue for role in QUEUES for queue in (topology.queue(role), topology.dead_letters(role))]
        return [*((queue.exchange.name, queue.routing_key) for queue in queues), (topology.cancels.name, "")]


SomeService = TypeVar("SomeService", bound=Service)


@contextmanager
def running_service(
    server_url: str,
    broker_url: str,
    kind: type[SomeService],
    *,
    window: int,
    script: Mapping[str, Any] = SCRIPT,
    roles: Mapping[str, Sequence[str]] = MEASURED,
    environment: Mapping[str, str] | None = None,
) -> Iterator[SomeService]:
    """Run the service for the duration of the block.

    Args:
        server_url: Database of a server on which others can be created.
        broker_url: URL of RabbitMQ.
        kind: Class that measures the service.
        window: Maximum number of problems that run at a time.
        script: Steps of the scripted engine.
        roles: Arguments for Python that start each role.
        environment: Variables of the roles in addition to those that every benchmark sets.
    """
    with tempfile.TemporaryDirectory() as folder, scratch_database(server_url) as database_url:
        settings = Settings(
            database_url=SecretStr(database_url), broker_url=SecretStr(broker_url), queue_prefix=scratch_prefix()
        )
        path = Path(folder) / "script.json"
        path.write_text(json.dumps(script), encoding="utf-8")
        variables = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker_url,
            "TRIM_QUEUE_PREFIX": settings.queue_prefix,
            "TRIM_ENGINE": "scripted",
            "TRIM_SCRIPT": str(path),
            "TRIM_WINDOW": str(window),
            "TRIM_LOG_LEVEL": "warning",
            **(environment or {}),
        }
        with (
            scratch_queues(settings),
            Roles(variables, Path(folder), roles=roles) as running,
            closing(kind(settings, running)) as service,
        ):
            yield service


def make_problem(problem_id: UUID, options: Options, *, question: str) -> Problem:
    """Make a problem as the api stores it."""
    return Problem(
        id=problem_id,
        question=question,
        policy=POLICY.name,
        policy_revision=POLICY.revision,
        policy_parameters=POLICY.model_dump(),
        options=options_values(options),
        pending=[],
    )
