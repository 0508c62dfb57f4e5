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
from trim_client import (
    Forbidden,
    InvalidRequest,
    NotTheService,
    Refused,
    ServiceFailed,
    TrimClientError,
    Unauthenticated,
    UnusableProxy,
)
from trim_client import Unreachable as NobodyAnswers

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
        except TrimClientError as error:
            sys.stderr.write(f"trim: {_advice(error)}\n")
            sys.exit(_EXIT_OF.get(type(error), 1))


_EXIT_OF: Final = {NobodyAnswers: EXIT_UNREACHABLE, InvalidRequest: EXIT_USAGE, UnusableProxy: EXIT_USAGE}
"""Exit codes of errors of the client; others are 1."""


def _advice(error: TrimClientError) -> str:
    """Return an error of the client in one sentence, with the next thing to try."""
    sentence = (error.detail if isinstance(error, Refused) else str(error)).removesuffix(".")
    sentence = sentence.removeprefix("body.").removeprefix("query.")  # The user wrote neither.
    match error:
        case NobodyAnswers():
            return f"{sentence}; start one with `make serve`, or name its address with --server."
        case NotTheService():
            return f"{sentence}; check --server."
        case Unauthenticated() | Forbidden():
            return f"{sentence}; set TRIM_API_KEY to a key that permits it."
        case ServiceFailed():
            return f"{sentence} (request {error.request_id})."
        case _:
            return sentence if sentence.endswith("?") else f"{sentence}."
