"""A small model's worker whose engine breaks down once it has a command: in the call itself, or between calls.

python -m tests.integration.broken_worker {call,check}
"""

from __future__ import annotations

import sys
import threading
from typing import cast

from shared.cancellation import Cancellation
from shared.engines.port import EngineDead, Generator
from shared.messages import GenerateSteps
from shared.process import run
from shared.settings import Settings
from shared.worker.command_worker import CommandWorker, Publish


class BrokenEngine:
    """Takes one command."""

    model_id = "broken"

    def __init__(self, breaks_in: str) -> None:
        self._breaks_in = breaks_in
        self._has_command = threading.Event()

    def handle(self, _command: GenerateSteps, cancellation: Cancellation, _publish: Publish) -> None:
        self._has_command.set()
        if self._breaks_in == "call":
            raise EngineDead
        given_up = threading.Event()
        cancellation.when_cancelled(given_up.set)
        given_up.wait()
        cancellation.raise_if_cancelled()

    def check(self) -> None:
        if self._breaks_in == "check" and self._has_command.is_set():
            raise EngineDead


def serve(settings: Settings) -> None:
    engine = BrokenEngine(sys.argv[1])
    CommandWorker(settings, "small", engine=cast("Generator", engine), handle=engine.handle).run()


if __name__ == "__main__":
    run(serve, role="small")
