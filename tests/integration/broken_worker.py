"""A small model's worker whose engine breaks down once it has a command: in the call itself, or between calls.

python -m tests.integration.broken_worker {call,check}
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import cast

from shared.cancellation import Cancellation
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead, Generator
from shared.messages import GenerateSteps
from shared.observe.health import Health
from shared.process import run_role
from shared.settings import Settings
from shared.worker.command_worker import CONDITIONS, CommandWorker
from shared.worker.execution import Context


class BrokenEngine:
    """Breaks down after it has taken one command."""

    model_id = "broken"

    def __init__(self, breaks_in: str) -> None:
        self._breaks_in = breaks_in
        self._has_command = threading.Event()

    def begin(self, _command: GenerateSteps, context: Context) -> BrokenWork:
        return BrokenWork(self, context.cancellation)

    def work(self, cancellation: Cancellation) -> None:
        self._has_command.set()
        if self._breaks_in == "call":
            raise EngineDead
        cancelled = threading.Event()
        cancellation.when_cancelled(cancelled.set)
        cancelled.wait()
        cancellation.raise_if_cancelled()

    def check(self) -> None:
        if self._breaks_in == "check" and self._has_command.is_set():
            raise EngineDead


class BrokenWork:
    """Work that finishes no step."""

    finished_steps = 0
    unfinished = None

    def __init__(self, engine: BrokenEngine, cancellation: Cancellation) -> None:
        self._engine = engine
        self._cancellation = cancellation

    def run(self) -> Iterator[None]:
        self._engine.work(self._cancellation)
        yield


def serve(settings: Settings, health: Health) -> None:
    engine = BrokenEngine(sys.argv[1])
    CommandWorker(
        settings,
        WorkerRole.SMALL,
        health,
        engine=cast("Generator", engine),
        begin=engine.begin,
        probe=lambda _: None,
    ).run()


if __name__ == "__main__":
    run_role(serve, role="small", conditions=CONDITIONS)
