"""Finds the embedded Postgres of the stack that runs in this folder."""

from __future__ import annotations

import socket
from pathlib import Path

from stack.postgres import DATABASE, url_of
from stack.sockets import SOCKET, present_folder
from stack.state import STATE, NoStack


def find_socket_folder() -> Path:
    """Return the folder of the socket of a server that answers.

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
    return folder


def present_database_url() -> str:
    """Return the URL of the service's database on a server that answers.

    Raises:
        NoStack: No server runs, or it is another user's.
    """
    return url_of(find_socket_folder(), DATABASE)
