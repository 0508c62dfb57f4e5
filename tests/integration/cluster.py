"""A Postgres server of the test's own, with an archive, that can crash and be restored."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from stack import postgres
from stack.server_user import server_user

BIN = postgres.BIN.parents[1] / "pginstall" / "bin"

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
max_connections = 40
shared_buffers = 16MB
"""


class Cluster:
    """A server with its data, backup and archive in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        user = server_user()
        user.open_way_to(BIN)
        user.give(folder)
        self._user: Any = user.credentials
        self.url = f"postgresql://postgres@/trim?host={folder}"

    def start(self, settings: str) -> None:
        """Create the server with further settings, and its database."""
        self.run("mkdir archive && initdb --username=postgres --auth=trust --encoding=UTF8 --no-sync > initdb.log")
        written = self.with_paths(SETTINGS.format(folder=self.folder) + settings)
        self.run("cat >> $PGDATA/postgresql.conf && pg_ctl --wait --log=server.log start > pg_ctl.log", given=written)
        self.run("createdb --maintenance-db=postgres trim")

    def crash(self) -> None:
        """End the server at once, and move its data away."""
        self.run("pg_ctl --mode=immediate stop && mv $PGDATA lost-$(date +%s%N)")

    def with_paths(self, command: str) -> str:
        """Put this server's archive into a text."""
        return command.replace("/archive/", f"{self.folder}/archive/")

    def run(self, script: str, *, given: str = "") -> str:
        """Run a shell script as the user of the server."""
        names = {"PGDATA": "data", "BACKUP": "backup", "DUMP": "trim.dump"}
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}", "PGHOST": str(self.folder), "PGUSER": "postgres",
            "PGDATABASE": "trim", "LC_ALL": "C",
            **{name: str(self.folder / path) for name, path in names.items()},
        }  # fmt: skip
        done = subprocess.run(
            ["sh", "-euc", self.with_paths(script)],
            cwd=self.folder, env=environment, input=given, capture_output=True, text=True, timeout=800, check=False,
            **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + self.log()
        return done.stdout

    def log(self) -> str:
        """Read what the server has logged."""
        paths = [*self.folder.glob("*.log"), *self.folder.glob("data/*.log")]
        return "".join(path.read_text() for path in paths)

    def archive_all(self) -> None:
        """Wait until all that is committed is in the archive, as it is a minute later at most."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            [[segment]] = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchall()
            while not (self.folder / "archive" / segment).exists():
                connection.execute("SELECT pg_sleep(0.05)")


@contextmanager
def private_cluster() -> Iterator[Cluster]:
    """Make a server that is stopped and deleted after the block."""
    folder = Path(tempfile.mkdtemp(prefix="trim-pg-"))
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.run("test ! -f $PGDATA/postmaster.pid || pg_ctl --mode=immediate stop")
        shutil.rmtree(folder)


def shell_blocks(page: str) -> list[str]:
    """Return the shell scripts of a page, also of those within a list."""
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks]
