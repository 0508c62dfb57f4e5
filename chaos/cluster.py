"""A separate Postgres server with an archive and a replica, which can crash, be restored, or be replaced."""

from __future__ import annotations

import os
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

REPLICA_PORT = 5433
"""Port of the replica's socket; that of the server is the default."""

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
max_connections = 40
shared_buffers = 16MB
"""


class Cluster:
    """A server with its data, replica, backup and archive in one folder."""

    def __init__(self, folder: Path) -> None:
        """Prepare the folder; nothing starts yet."""
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

    def add_replica(self) -> None:
        """Start a replica that receives the server's commits asynchronously."""
        self.run("pg_basebackup --pgdata=replica --checkpoint=fast --write-recovery-conf")
        self.run("pg_ctl --pgdata=replica --wait --log=replica.log start > pg_ctl.log", port=REPLICA_PORT)

    def sever_replica(self) -> None:
        """Have the replica receive no more commits, as over a line that is cut."""
        with psycopg.connect(f"{self.url}&port={REPLICA_PORT}", autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SELECT 1 FROM pg_stat_wal_receiver").fetchone():
                connection.execute("SELECT pg_sleep(0.05)")

    def fail_over(self) -> None:
        """Crash the server, and have its replica take its place and its address."""
        self.crash()
        self.run("pg_ctl --pgdata=replica --wait promote && pg_ctl --pgdata=replica stop", port=REPLICA_PORT)
        self.run("mv replica $PGDATA && pg_ctl --wait --log=server.log start > pg_ctl.log")

    def end(self) -> None:
        """End the server and its replica at once."""
        self.run(
            "for each in $PGDATA replica; do"
            " test ! -f $each/postmaster.pid || pg_ctl --pgdata=$each --mode=immediate stop; done"
        )

    def with_paths(self, command: str) -> str:
        """Put this server's archive into a text."""
        return command.replace("/archive/", f"{self.folder}/archive/")

    def run(self, script: str, *, given: str = "", port: int = 5432) -> str:
        """Run a shell script as the user of the server."""
        names = {"PGDATA": "data", "BACKUP": "backup", "DUMP": "trim.dump"}
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}", "PGHOST": str(self.folder), "PGPORT": str(port),
            "PGUSER": "postgres", "PGDATABASE": "trim", "LC_ALL": "C",
            **{name: str(self.folder / path) for name, path in names.items()},
        }  # fmt: skip
        done: subprocess.CompletedProcess[str] = subprocess.run(
            ["sh", "-euc", self.with_paths(script)],
            cwd=self.folder, env=environment, input=given, capture_output=True, text=True, timeout=800, check=False,
            **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + self.log()
        return done.stdout

    def log(self) -> str:
        """Read what the server has logged."""
        paths = [*self.folder.glob("*.log"), *self.folder.glob("data/*.log")]
        return "".join(path.read_text(encoding="utf-8") for path in paths)

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
        cluster.end()
        shutil.rmtree(folder)
