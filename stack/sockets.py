"""The folder of the embedded Postgres' socket: that of its data, or a private one if that cannot hold a socket."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import PermanentError
from stack.server_user import ServerUser

PORT = 5432
"""Part of the socket's name; nothing listens on a port."""

SOCKET = f".s.PGSQL.{PORT}"

LINK = "socket"
"""Name of the link in the state folder to a private folder, so that the next stack deletes it if this one is killed."""


class NoSocketFolder(PermanentError):
    """No folder can hold the socket of Postgres; run in a folder with a shorter path."""

    code = "no_socket_folder"


@contextmanager
def socket_folder(data: Path, user: ServerUser) -> Iterator[Path]:
    """Choose the folder of the socket for the duration of the block. Only the server's user, and root, can open it.

    Raises:
        NoSocketFolder: Neither the folder of the data nor one for temporary files can hold a socket.
    """
    link = data.with_name(LINK)
    _delete_private(link, user)
    if _holds_sockets(data):
        yield data
        return
    for parent in dict.fromkeys([Path(tempfile.gettempdir()).resolve(), Path("/tmp").resolve()]):  # noqa: S108
        # The name is random, and the folder fails to be made if it exists: nobody can prepare it.
        made = Path(tempfile.mkdtemp(prefix="trim-", dir=parent))
        if _holds_sockets(made) and user.reaches(made):
            user.give(made)
            link.symlink_to(made)
            try:
                yield made
            finally:
                _delete_private(link, user)
            return
        made.rmdir()
    raise NoSocketFolder


def present_folder(data: Path) -> Path:
    """Return the folder of the socket while a server runs on the data."""
    link = data.with_name(LINK)
    return link.readlink() if link.is_symlink() else data


def _holds_sockets(folder: Path) -> bool:
    """Tell whether a socket can be made in a folder, and named in the server's settings and in a URL."""
    if re.fullmatch(r"[A-Za-z0-9/._~-]+", str(folder)) is None:
        return False
    probe = folder / ".s.PGSQL.test"
    assert len(probe.name) == len(SOCKET), "paths have a maximum length"
    probe.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as made:
        try:
            made.bind(str(probe))
        except OSError:  # The path is too long, or the file system has no sockets.
            return False
        finally:
            probe.unlink(missing_ok=True)
    return True


def _delete_private(link: Path, user: ServerUser) -> None:
    """Delete the private folder that a link names, unless it has become someone else's."""
    if not link.is_symlink():
        return
    folder = link.readlink()
    if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == user.uid:
        shutil.rmtree(folder, ignore_errors=True)
    link.unlink()
