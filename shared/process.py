"""Start and end of every process: settings, logs, and errors as one sentence instead of a stack trace."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pydantic import ValidationError

from shared import log
from shared.errors import PermanentError, RefusedError, TrimError, explain
from shared.observe import metrics, tracing
from shared.observe.endpoints import listening
from shared.observe.health import Health
from shared.observe.tracing import TRACING
from shared.settings import SETTINGS_TITLE, Settings
from shared.version import PRODUCT

EXIT_BROKEN = 1
"""Exit status of a process that broke down: a restart may help."""

EXIT_USAGE = 2
"""Exit status of a process with wrong settings: a restart does not help."""

ALL_SETTINGS = "All settings are environment variables; docs/settings.md describes them."


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of an entry point, with `--help` and `--version`; the description names the settings it needs."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=f"{description} {ALL_SETTINGS}")
    made.add_argument("--version", action="version", version=PRODUCT)
    return made


def run(serve: Callable[[Settings], None], *, role: str) -> None:
    """Run a program: read the settings, set up the logs, and serve until a signal stops it."""
    signal.signal(signal.SIGTERM, _stop_at_once)
    with reporting_errors(role):
        settings = Settings()
        log.configure(settings, role=role)
        tracing.configure(settings, role=role)
        if settings.ends_with_parent:
            threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
        try:
            serve(settings)
        finally:
            TRACING.close()


def run_role(serve: Callable[[Settings, Health], None], *, role: str, conditions: Sequence[str]) -> None:
    """Run a process of the service, and show operators its metrics and its health from the start.

    Args:
        serve: Serves until a signal stops it; records in the health what it waits for.
        role: Role of the process.
        conditions: Names of the conditions that make it ready.
    """

    def serve_observed(settings: Settings) -> None:
        health = Health(role=role, node=settings.node_name, conditions=conditions)
        if settings.metrics_port is None:
            serve(settings, health)
            return
        metrics.expose(role)
        with listening(health, host=settings.metrics_host, port=settings.metrics_port):
            serve(settings, health)

    signal.signal(signal.SIGINT, _stop_at_once)
    run(serve_observed, role=role)


@contextmanager
def reporting_errors(program: str) -> Iterator[None]:
    """Report wrong settings and errors of the service in one sentence, and exit. Other exceptions pass through."""
    try:
        yield
    except ValidationError as error:
        if error.title != SETTINGS_TITLE:
            raise
        first = error.errors(include_url=False, include_input=False)[0]
        name, *inside = map(str, first["loc"])
        place = f", in {'.'.join(inside)}" if inside else ""
        reason = first["msg"].removeprefix("Value error, ")
        sys.stderr.write(f"{program}: setting TRIM_{name.upper()}{place}: {reason}.\n")
        sys.exit(EXIT_USAGE)
    except TrimError as error:
        sys.stderr.write(f"{program}: {explain(error)}\n")
        sys.exit(EXIT_USAGE if isinstance(error, PermanentError | RefusedError) else EXIT_BROKEN)


def setting(event: threading.Event) -> Callable[..., None]:
    """Return a signal handler that sets an event.

    A second signal may interrupt the first one while that holds the lock of the event, so only the first one sets it.
    """
    numbers: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        numbers.append(number)
        if len(numbers) == 1:
            event.set()

    return on_signal


def _stop_at_once(_signal: int, _frame: object) -> None:
    """End a process that has taken no work yet; once it serves, it handles the signal itself.

    The kernel drops the signal if nothing handles it and the process is the first one of its container. A model that is
    being loaded would delay an exit in good order, and nothing is lost without it.
    """
    os._exit(0)


def _stop_with_parent() -> None:
    """Send SIGTERM to this process when the parent exits, which closes standard input."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
