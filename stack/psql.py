"""Connects psql to the embedded Postgres of the stack that runs in this folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import NoReturn

from shared.errors import TrimError
from stack.postgres import BIN, DATABASE, SUPERUSER, forget_other_servers
from stack.sockets import PORT, SOCKET, present_folder
from stack.state import STATE

EXIT_UNREACHABLE = 3
"""Exit status if no server answers, as that of `trim`."""


class NoStack(TrimError):
    """No embedded Postgres runs in this folder; start one with `make serve`, and leave it running."""

    code = "no_stack"


def become_psql(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by psql, connected to the embedded Postgres; its exit status is that of psql.

    Raises:
        NoStack: No server runs, or it is another user's.
    """
    folder = present_folder(STATE.resolve() / "postgres")
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(folder / SOCKET))
    except PermissionError:
        raise NoStack("The embedded Postgres in this folder belongs to another user; run this as that user.") from None
    except OSError:
        raise NoStack from None
    forget_other_servers()
    where = [f"--host={folder}", f"--port={PORT}", f"--username={SUPERUSER}", f"--dbname={DATABASE}"]
    os.execv(BIN / "psql", ["psql", *where, *arguments])  # noqa: S606 - no shell is the point
