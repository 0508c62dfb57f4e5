"""The system user that runs the embedded Postgres: the one of this process, or `pgserver` for root."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from shared.errors import PermanentError

FOR_ROOT = "pgserver"
"""Name of the user for root, for whom Postgres refuses to run."""


class NoServerUser(PermanentError):
    """Postgres cannot run as this user; run as another one, or name a server with TRIM_DATABASE_URL."""

    code = "no_server_user"


class Credentials(TypedDict, total=False):
    """Arguments of `subprocess.Popen` that start a process as another user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The user that runs the server, and the one that connects to it."""

    uid: int
    gid: int
    client: str
    """Name of the user of this process."""

    @property
    def credentials(self) -> Credentials:
        """Arguments of `subprocess.Popen` for a process of the server."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make a folder of this process one that only the server, and root, can open."""
        path.chmod(0o700)
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)

    def open_way_to(self, path: Path) -> None:
        """Let the server reach a path: for root, other users may then pass through its parents, but not list them."""
        if self.uid == os.geteuid():
            return
        for parent in path.parents:
            if not (mode := parent.stat().st_mode) & stat.S_IXOTH:
                parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    def reaches(self, path: Path) -> bool:
        """Tell whether the server may pass through all parents of a path."""
        return self.uid == os.geteuid() or all(each.stat().st_mode & stat.S_IXOTH for each in path.parents)


def server_user() -> ServerUser:
    """Find the user that runs the server; for root, make it if it is missing.

    Raises:
        NoServerUser: The user of this process has no name, or root cannot make the other one.
    """
    uid = os.geteuid()
    try:
        client = pwd.getpwuid(uid).pw_name
    except KeyError:
        raise NoServerUser(
            f"Postgres cannot run as user {uid}, which has no name on this machine; add one to /etc/passwd, or name a "
            "server with TRIM_DATABASE_URL."
        ) from None
    if uid != 0:
        return ServerUser(uid, os.getegid(), client)
    try:
        found = pwd.getpwnam(FOR_ROOT)
    except KeyError:
        found = _made()
    return ServerUser(found.pw_uid, found.pw_gid, client)


def _made() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", FOR_ROOT]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        reason = done.stderr.strip()
    except OSError as error:
        reason = f"useradd: {error.strerror}"
    try:
        return pwd.getpwnam(FOR_ROOT)
    except KeyError:
        raise NoServerUser(
            f"Postgres refuses to run as root, and its user {FOR_ROOT} cannot be made ({reason}); run as another user, "
            "or name a server with TRIM_DATABASE_URL."
        ) from None
