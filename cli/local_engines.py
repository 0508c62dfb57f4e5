"""How commands run the models of the settings in this process: settings, logs, problems, and Ctrl-C at any time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import Interrupted
from cli.progress import note
from evaluation.engines import LoadedEngines, loaded_engines
from evaluation.patient_engines import Patience, Stopping
from evaluation.problem_sources import (
    ProblemSet,
    keep_problems,
    kept_problems,
    problems_of_database,
    problems_of_file,
)
from shared import log
from shared.cancellation import Cancelled
from shared.settings import Settings
from stack.interrupts import STOPPING, interrupt_once

KEPT = "database-problems.jsonl"
"""Name of the file, in the folder of a result, that keeps the problems of the database."""

NOTHING_KEPT = "Stopped, and nothing is kept; name a file with --memory, so that the same command resumes."


def read_settings() -> Settings:
    """Read the settings and set up the logs; unless the environment says otherwise, only warnings are logged."""
    settings = Settings()
    if "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "warning"})
    log.configure(settings, role="trim")
    return settings


@contextmanager
def local_engines(settings: Settings, memory: Path | None) -> Iterator[LoadedEngines]:
    """Load the engines for the block. Ctrl-C, SIGTERM and hang-up cancel all their calls.

    Raises:
        EngineDead: An engine cannot go on.
        Interrupted: The user ends the command.
    """
    patience = Patience()
    with _stopping_on_signals(patience.stopping):
        try:
            with loaded_engines(settings, memory=memory, patience=patience) as engines:
                yield engines
        except (Cancelled, KeyboardInterrupt):
            stopped = Interrupted(NOTHING_KEPT) if memory is None else Interrupted()
            raise patience.stopping.reason or stopped from None


def read_problems(
    settings: Settings, file: Path | None, *, count: int, seed: int, kept: Path | None = None
) -> ProblemSet:
    """Read the problems of a file, or those of the service's database.

    Args:
        settings: Settings.
        file: The file; without one, the database.
        count: Maximum number of problems; of a file, they are drawn at random.
        seed: Seed of the draw.
        kept: File that keeps the problems of the database, so that a second call reads the same ones.

    Raises:
        UnusableProblems: There are none, or the kept ones are damaged or those of another `count`.
    """
    if file is not None:
        return problems_of_file(file, settings).drawn(count, seed=seed)
    if kept is not None and kept.exists():
        found = kept_problems(kept, count=count)
        note(
            f"Using the {len(found.problems)} problems of the database that {kept} keeps; delete it to take newer ones."
        )
    else:
        found = problems_of_database(settings, count=count)
        if kept is not None:
            keep_problems(found, kept, count=count)
    return found.drawn(count, seed=seed)


@contextmanager
def _stopping_on_signals(stopping: Stopping) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        # In a thread, because the signal may have interrupted a call that holds a lock which `cancel` needs.
        threading.Thread(target=stopping.cancel, daemon=True).start()
        interrupt_once(number, frame)

    before = {each: signal.getsignal(each) for each in STOPPING}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
