"""The state folder: the data of the embedded Postgres, and the logs. One stack at a time uses it."""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import PermanentError, RetryableError, TrimError

STATE = Path(".state")
"""Folder of the embedded Postgres and the logs; safe to delete while no stack runs."""

LOGS = STATE / "logs"


class StateInUse(RetryableError):
    """Another stack runs in this folder, with its data under .state; stop it, or run in another checkout."""

    code = "state_in_use"


class StateUnusable(PermanentError):
    """The state folder .state cannot be used."""

    code = "state_unusable"


class NoStack(TrimError):
    """No embedded Postgres runs in this folder; start one with `make serve`, and leave it running."""

    code = "no_stack"


@contextmanager
def state_folder() -> Iterator[None]:
    """Lock the state folder for the duration of the block.

    Raises:
        StateInUse: Another stack holds the lock.
        StateUnusable: The folder belongs to another user, or cannot be written.
    """
    try:
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(STATE, os.geteuid())
        # Not truncated, and not through a link: as root, this would empty any file.
        lock = os.open(STATE / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateUnusable(f"{STATE.resolve()} cannot be used ({error.strerror}); run in another folder.") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUse from None
        yield
    finally:
        os.close(lock)


def check_owner(folder: Path, uid: int) -> None:
    """Check that a folder belongs to a user.

    Another user's files would be read as if they were ours, and become unusable for that user.

    Raises:
        StateUnusable: It belongs to another user.
    """
    if (owner := folder.stat().st_uid) != uid:
        raise StateUnusable(
            f"{folder.resolve()} belongs to the user {user_name(owner)}, not to {user_name(uid)}; run as its owner, "
            "in another folder, or delete it."
        )


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
