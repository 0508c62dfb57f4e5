"""Exit codes of the `trim` command.

0 done, 1 failed, 2 wrong usage, 3 the service or one of its servers cannot be reached, 4 PRM scores have shifted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shared import process
from shared.errors import PermanentError, RefusedError, RetryableError, TrimError, explain
from stack.client import Unreachable
from stack.interrupts import EXIT_STOPPED
from stack.state import NoStack

EXIT_USAGE: Final = process.EXIT_USAGE
EXIT_UNREACHABLE: Final = 3
EXIT_SHIFTED: Final = 4


class NotInstalled(PermanentError):
    """The command needs a library that is not installed; install the extra that the message names."""

    code = "not_installed"


class Interrupted(TrimError):
    """Stopped; the same command with the same folder or memory resumes."""

    code = "interrupted"


@contextmanager
def requiring(extra: str) -> Iterator[None]:
    """Import what a command needs beside the `trim` command itself.

    Raises:
        NotInstalled: A library is missing; the message names the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise NotInstalled(
            f"This command needs {error.name}, which is not installed here; install it with pip install '.[{extra}]'."
        ) from None


@contextmanager
def reaching_servers() -> Iterator[None]:
    """Report a database or broker that does not answer in one sentence, and exit with the code for that."""
    try:
        yield
    except RefusedError:
        raise
    except (RetryableError, NoStack) as error:
        sys.stderr.write(f"trim: {explain(error)}\n")
        sys.exit(EXIT_UNREACHABLE)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Report errors of the service and its files in one sentence, and exit. Other exceptions pass through."""
    with process.reporting_errors("trim"):
        try:
            yield
        except Unreachable as error:
            sys.stderr.write(f"trim: {error}\n")
            sys.exit(EXIT_UNREACHABLE)
        except Interrupted as error:
            sys.stderr.write(f"trim: {error}\n")
            sys.exit(EXIT_STOPPED)
