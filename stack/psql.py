"""Connects psql to the embedded Postgres of the stack that runs in this folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from stack.postgres import BIN, DATABASE, SUPERUSER, forget_other_servers
from stack.present import find_socket_folder
from stack.sockets import PORT

EXIT_UNREACHABLE = 3
"""Exit status if no server answers, as that of `trim`."""


def become_psql(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by psql, connected to the embedded Postgres; its exit status is that of psql.

    Raises:
        NoStack: No server runs, or it is another user's.
    """
    folder = find_socket_folder()
    forget_other_servers()
    where = [f"--host={folder}", f"--port={PORT}", f"--username={SUPERUSER}", f"--dbname={DATABASE}"]
    os.execv(BIN / "psql", ["psql", *where, *arguments])  # noqa: S606 - no shell is the point
