"""The embedded Postgres: wherever the checkout lies, closed to other users, and ended whatever becomes of its stack."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from stack.postgres import BIN, EmbeddedPostgres, PostgresFailed
from stack.server_user import server_user
from stack.sockets import LINK, SOCKET
from stack.state import StateUnusable

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
NOBODY = 65534
TOO_LONG = "x" * 120
"""Name of a folder in which the path of a socket would exceed what the system allows."""


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder outside of pytest's, whose folders are closed to the user that Postgres runs as under root."""
    with tempfile.TemporaryDirectory(prefix="trim-postgres-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """Data that a server has created: creating it again for each test would take seconds."""
    with open_folder() as made:
        with EmbeddedPostgres(made / "postgres"):
            pass
        yield made / "postgres"


@pytest.fixture
def place(folder: Path, template: Path) -> Callable[[Path], Path]:
    """Puts data into a folder, and returns its path."""

    def copy(parent: Path) -> Path:
        parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", template, parent / "postgres"], check=True)
        return parent / "postgres"

    return copy


@pytest.fixture
def temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    made = folder / "t"
    made.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    return made


def value(url: str, query: str) -> str:
    """Read one value, as text."""
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("name", ["my team's 100 % é", TOO_LONG])
def test_the_server_runs_in_a_folder_that_cannot_hold_its_socket(folder: Path, temporary: Path, name: str) -> None:
    data = folder / name / "postgres"
    names = set()
    for _ in range(2):
        with EmbeddedPostgres(data) as url:
            assert Path(value(url, "SHOW data_directory")).samefile(data)
            [made] = temporary.iterdir()
            names.add(made.name)
            assert stat.S_IMODE(made.stat().st_mode) == 0o700
            assert made.stat().st_uid == server_user().uid
        assert list(temporary.iterdir()) == [], "the folder of the socket is deleted"
    assert len(names) == 2, "nobody can prepare a folder whose name is random"


def test_a_link_that_a_killed_stack_left_deletes_nothing_of_someone_else(
    folder: Path, temporary: Path, place: Callable[[Path], Path]
) -> None:
    other = folder / "other"
    other.mkdir()
    (other / SOCKET).touch()
    (temporary / "trim-foreseen").symlink_to(other)
    (folder / LINK).symlink_to(temporary / "trim-foreseen")
    with EmbeddedPostgres(place(folder)):
        assert not (folder / LINK).is_symlink()
    assert (other / SOCKET).exists()


@AS_ROOT
@pytest.mark.parametrize("name", ["short", TOO_LONG])
def test_another_user_neither_connects_nor_reads_a_file(
    folder: Path, temporary: Path, place: Callable[[Path], Path], name: str
) -> None:
    data = place(folder / name)
    with EmbeddedPostgres(data) as url:
        sockets = Path(value(url, "SHOW unix_socket_directories"))
        assert "Permission denied" in as_nobody("psql", url, "--command=SELECT 1")
        for path in (data, data / "pg_hba.conf", data.parent / "logs", data.parent / "logs" / "postgres.log", sockets):
            assert "Permission denied" in as_nobody("ls", str(path))
        # Even through a folder that someone opened, the server would not let them in.
        sockets.chmod(0o755)
        (sockets / SOCKET).chmod(0o777)
        if sockets != data:
            assert 'Peer authentication failed for user "postgres"' in as_nobody("psql", url, "--command=SELECT 1")


def as_nobody(program: str, *arguments: str) -> str:
    """Run a program as another user, which must fail, and return its message."""
    found = BIN / program if (BIN / program).exists() else program
    done = subprocess.run(
        [found, *arguments], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_data_of_an_earlier_version_keeps_its_rows_and_loses_its_open_door(
    folder: Path, place: Callable[[Path], Path]
) -> None:
    data = place(folder)
    with EmbeddedPostgres(data) as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    (data / "pg_hba.conf").write_text("local all all trust\n")
    with EmbeddedPostgres(data) as url:
        assert value(url, "SELECT number FROM kept") == "7"
        assert value(url, "SELECT string_agg(type || ' ' || auth_method, ', ') FROM pg_hba_file_rules") == "local peer"
    assert "trust" not in (data / "pg_hba.conf").read_text()


def test_half_created_data_is_created_again(folder: Path) -> None:
    draft = folder / "postgres.part"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder / "postgres") as url:
        assert value(url, "SELECT 1") == "1"
    assert not draft.exists()


def test_data_of_another_version_is_refused_and_left_alone(folder: Path) -> None:
    data = folder / "postgres"
    data.mkdir()
    shutil.chown(data, server_user().uid)
    (data / "PG_VERSION").write_text("19\n")
    with pytest.raises(StateUnusable, match=r"holds data of Postgres 19, and this is Postgres 18"):
        EmbeddedPostgres(data).__enter__()
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


@AS_ROOT
def test_data_of_another_user_is_refused_and_stays_theirs(folder: Path) -> None:
    data = folder / "postgres"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    (data / "PG_VERSION").write_text("18\n")
    with pytest.raises(StateUnusable, match=r"belongs to the user nobody, not to pgserver"):
        EmbeddedPostgres(data).__enter__()
    assert data.stat().st_uid == NOBODY


def test_a_server_that_ends_is_reported_with_the_end_of_its_log(folder: Path, place: Callable[[Path], Path]) -> None:
    server = EmbeddedPostgres(place(folder))
    with server as url:
        server.check()
        process = psutil.Process(int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0]))
        value(url, "SELECT 1")
        process.send_signal(signal.SIGINT)
        psutil.wait_procs([process], timeout=800)
        with pytest.raises(PostgresFailed, match=r"(?s)ended with status 0.*database system is shut down"):
            server.check()


HOLDER = """
import sys
from pathlib import Path
from stack.postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server in another process, in a separate group that the test may kill."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    assert holder.stdout is not None
    try:
        yield holder, holder.stdout.readline().strip()
    finally:
        holder.communicate()


def children(holder: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    return [each for each in psutil.Process(holder.pid).children() if each.name() == name]


def test_a_server_ends_with_the_killed_group_of_its_stack(folder: Path, place: Callable[[Path], Path]) -> None:
    with held(place(folder)) as (holder, _):
        servers = psutil.Process(holder.pid).children(recursive=True)
        assert len(servers) > 2
        os.killpg(holder.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(servers, timeout=800)
        assert alive == []


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_server_that_outlived_its_stack_is_ended_by_the_next_one_and_its_rows_stay(
    folder: Path, temporary: Path, place: Callable[[Path], Path], *, is_stopped: bool
) -> None:
    data = place(folder / TOO_LONG)
    with held(data) as (holder, url):
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        [server] = children(holder, "postgres")
        for each in [*children(holder, "sh"), *children(holder, "dash"), *children(holder, "bash")]:
            each.kill()
        holder.kill()
        holder.wait()
        if is_stopped:
            server.send_signal(signal.SIGSTOP)
        with EmbeddedPostgres(data) as other:
            assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
            assert value(other, "SELECT number FROM kept") == "7"


def test_a_server_on_other_data_is_left_alone(folder: Path, place: Callable[[Path], Path]) -> None:
    with EmbeddedPostgres(place(folder / "one")) as one, EmbeddedPostgres(place(folder / "two")) as two:
        assert one != two
        assert value(one, "SELECT 1") == value(two, "SELECT 1") == "1"
