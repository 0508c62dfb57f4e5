"""`trim doctor` against real servers: each fault, the sentence that names it, and the remedy."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from click.testing import Result
from kombu.messaging import Consumer
from typer.testing import CliRunner

from cli.app import app
from cli.doctor import command
from shared.bus.connection import connect
from shared.bus.publisher import Publisher
from shared.bus.topology import QUEUES, DeadLetter, Topology
from shared.domain.fitness import Unfit
from shared.domain.roles import WorkerRole
from shared.settings import Settings
from shared.store import lock_holders
from shared.store.admission import BROKER, record_processes
from shared.store.database import Database
from shared.store.port import SeenProcess
from shared.version import VERSION
from stack.scratch import scratch_prefix, scratch_queues

pytestmark = pytest.mark.servers

NOBODY = "127.0.0.1:1"
ROLES = ("orchestrator", BROKER, *WorkerRole)

Doctor = Callable[..., Result]


def url_of(database: Database) -> str:
    return database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def beat(database: Database, *roles: str, **changes: Any) -> None:
    seen = [
        SeenProcess(
            **{"name": f"{role}-0", "role": role, "model": f"m/{role}", "seen_at": datetime.now(UTC), **changes}
        )
        for role in roles
    ]
    with database.begin() as connection:
        record_processes(connection, seen)


@pytest.fixture(scope="module")
def settings(database: Database) -> Settings:
    """A database, and the queues of pgmq on it."""
    url = url_of(database)
    broker_url = url.replace("postgresql", "pgmq", 1)
    made = Settings.model_validate({"database_url": url, "broker_url": broker_url, "queue_prefix": scratch_prefix()})
    with closing(Publisher(made)) as publisher:
        publisher.check()
    return made


@pytest.fixture
def well(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """A service of which every part sends heartbeats, and the variables that name its servers."""
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM processes")
    beat(database, *ROLES)
    monkeypatch.setenv("TRIM_DATABASE_URL", settings.require_database_url())
    monkeypatch.setenv("TRIM_BROKER_URL", settings.require_broker_url())
    monkeypatch.setenv("TRIM_QUEUE_PREFIX", settings.queue_prefix)
    monkeypatch.chdir(tmp_path)
    return settings


@pytest.fixture
def doctor(address: str) -> Doctor:
    return lambda *arguments, server=address: CliRunner().invoke(
        app, ["doctor", "--server", server, *arguments], catch_exceptions=False
    )


def findings(result: Result) -> dict[str, Any]:
    return {each["name"]: each for each in json.loads(result.stdout)["findings"]}


def wrong(found: dict[str, Any]) -> list[str]:
    return [name for name, each in found.items() if each["state"] == "wrong"]


def test_a_service_that_is_well_has_one_line_for_each_dependency_and_exit_code_0(
    well: Settings, doctor: Doctor
) -> None:
    result = doctor()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    names = ["database", "schema", "api", "clock", "broker", "orchestrator", "small", "large", "prm"]
    heads = [line.split()[1] for line in lines if not line.startswith(" ")]
    assert heads == [*names, *["queue"] * 4, "dead", "policies"]
    assert all(line.startswith(("ok ", " ")) for line in lines), result.output
    assert f"version {VERSION}" in result.stdout
    found = findings(doctor("--json"))
    assert found["clock"]["facts"]["ahead_s"].keys() == {"this machine"}
    assert found["queue small"]["facts"]["processes"] == ["small-0"]
    assert found["small"]["facts"]["models"] == ["m/small"]


@contextmanager
def executed(database: Database, statement: str, undo: str) -> Iterator[None]:
    with psycopg.connect(url_of(database), autocommit=True) as connection:
        connection.execute(statement.encode())
        try:
            yield
        finally:
            connection.execute(undo.encode())


@contextmanager
def old_schema(database: Database) -> Iterator[None]:
    newest = "UPDATE alembic_version SET version_num = (SELECT max(v) FROM (VALUES ('{}')) AS t(v))"
    from shared.store.compatibility import REVISION

    with executed(database, newest.format("0001"), newest.format(REVISION)):
        yield


@contextmanager
def newer_schema(database: Database) -> Iterator[None]:
    change = "UPDATE schema_compatibility SET oldest_code = '{}'"
    with psycopg.connect(url_of(database)) as connection:
        [before] = connection.execute("SELECT oldest_code FROM schema_compatibility").fetchone() or ["0001"]
    with executed(database, change.format("9999"), change.format(before)):
        yield


@contextmanager
def held_lock(database: Database) -> Iterator[None]:
    with psycopg.connect(url_of(database), application_name="somebody") as connection:
        connection.execute("LOCK TABLE steps IN ROW EXCLUSIVE MODE")
        time.sleep(0.2)
        yield


@contextmanager
def silent_worker(database: Database) -> Iterator[None]:
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE processes SET seen_at = now() - interval '5 min' WHERE role = 'large'")
    yield


@contextmanager
def unfit_worker(database: Database) -> Iterator[None]:
    unfit = Unfit(code="access_denied", detail="The server refuses the key.", since=datetime.now(UTC))
    beat(database, "prm", seen_at=datetime.now(UTC) + timedelta(seconds=1), unfit=unfit)
    yield


@contextmanager
def skewed_clock(database: Database) -> Iterator[None]:
    beat(database, "small", seen_at=datetime.now(UTC) + timedelta(seconds=1), clock_ahead_s=-62.0)
    yield


FAULTS: dict[str, tuple[Callable[[Database], Any], str, str, str]] = {
    "old schema": (old_schema, "schema", "The schema is 0001, and version", "python -m migrations upgrade"),
    "newer schema": (newer_schema, "schema", "allows no version before 9999", "Upgrade whatever still runs version"),
    "lock held": (held_lock, "database", "somebody (process", "SELECT pg_terminate_backend("),
    "silent role": (silent_worker, "large", "large-0 was seen last, at", "python -m services.generator large"),
    "unfit worker": (unfit_worker, "prm", "(access_denied): The server refuses the key.", "Give the workers a new key"),
    "clock": (skewed_clock, "clock", "The clock of small-0 is 62 s behind the database's.", "NTP"),
}


@pytest.mark.parametrize(("breaking", "name", "sentence", "remedy"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_first_with_what_mends_it(  # noqa: PLR0917 - pytest passes by name
    well: Settings, doctor: Doctor, database: Database, monkeypatch: pytest.MonkeyPatch,
    breaking: Callable[[Database], Any], name: str, sentence: str, remedy: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(lock_holders, "HELD_S", 0.1)
    with breaking(database):
        result = doctor("--json")
    found = findings(result)
    assert result.exit_code == 1
    assert wrong(found)[0] == name, wrong(found)
    [fault] = found[name]["faults"]
    assert sentence in fault["sentence"]
    assert remedy in f"{fault['remedy']} {fault['command']}"


POSTGRES, RABBITMQ = "postgresql://postgres:hunter2@", "amqp://guest:hunter2@"
ADDRESSES = {
    "no database": (POSTGRES, "{postgres}/trim_no", 'database "trim_no" does not exist.', "create it"),
    "nothing there": (POSTGRES, f"{NOBODY}/x", "Connection refused", "nothing listens there"),
    "no host": (POSTGRES, "trim.invalid/x", "trim.invalid", "cannot resolve it"),
    "no address": (POSTGRES, "localhost:port/x", "names no Postgres database", "TRIM_DATABASE_URL"),
    "no user": ("postgresql://trim_no:hunter2@", "{postgres}/postgres", 'role "trim_no" does not', "Correct the user"),
    "wrong password": (RABBITMQ, "{rabbitmq}//", "ACCESS_REFUSED", "Correct user and password in TRIM_BROKER_URL"),
    "no vhost": ("amqp://guest:guest@", "{rabbitmq}/trim_no", "trim_no not found", "rabbitmqctl add_vhost"),
    "no broker": (RABBITMQ, f"{NOBODY}//", "Connection refused", "Start the server"),
}


@pytest.mark.parametrize(("user", "place", "sentence", "remedy"), ADDRESSES.values(), ids=ADDRESSES)
def test_a_server_that_cannot_be_used_is_named_without_its_password(  # noqa: PLR0917 - pytest passes by name
    well: Settings, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, postgres_server: str, rabbitmq_server: str,
    user: str, place: str, sentence: str, remedy: str,
) -> None:  # fmt: skip
    places = {name: urlsplit(each).netloc.rpartition("@")[2] for name, each in
              {"postgres": postgres_server, "rabbitmq": rabbitmq_server}.items()}  # fmt: skip
    name, variable = ("broker", "TRIM_BROKER_URL") if "amqp" in user else ("database", "TRIM_DATABASE_URL")
    monkeypatch.setenv(variable, user + place.format(**places))
    result = doctor("--json")
    found = findings(result)
    assert (result.exit_code, wrong(found)[0]) == (1, name)
    [fault] = found[name]["faults"]
    assert sentence in fault["sentence"]
    assert remedy in f"{fault['remedy']} {fault['command']}"
    assert "hunter2" not in result.output


def test_queues_of_rabbitmq_without_consumers_and_missing_ones_are_named(
    well: Settings, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, rabbitmq_server: str
) -> None:
    monkeypatch.setenv("TRIM_BROKER_URL", rabbitmq_server)
    found = findings(doctor("--json"))
    [fault] = found["queue small"]["faults"]
    assert fault["sentence"] == f"The broker has no queue {well.queue_prefix}.small."
    there = Settings.model_validate({"broker_url": rabbitmq_server, "queue_prefix": well.queue_prefix})
    topology = Topology(there.queue_prefix)
    with scratch_queues(there), ExitStack() as stack:
        with closing(Publisher(there)) as publisher:
            publisher.publish([DeadLetter("prm", b"{", "it is broken")])
        connection = connect(there)
        stack.callback(connection.release)
        taken = [topology.queue(role) for role in QUEUES if role != "large"]
        Consumer(connection.channel(), taken, callbacks=[lambda *_: None], auto_declare=False).consume()
        result = doctor("--json")
    found = findings(result)
    assert result.exit_code == 1
    assert wrong(found) == ["queue large", "dead letters"]
    [fault] = found["queue large"]["faults"]
    assert fault["sentence"] == f"Nobody takes from {well.queue_prefix}.large, where 0 wait."
    assert "large-0 sends heartbeats: restart it" in fault["remedy"]
    assert found["broker"]["facts"]["product"] == "RabbitMQ"
    assert found["broker"]["facts"]["takes_messages"] is True
    assert found["queue small"]["facts"]["consumers"] == 1
    assert found["dead letters"]["faults"][0]["sentence"].endswith("1 of prm.")


def test_with_the_api_alone_it_tells_what_the_api_knows(
    well: Settings, doctor: Doctor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIM_DATABASE_URL")
    monkeypatch.delenv("TRIM_BROKER_URL")
    result = doctor("--json")
    found = findings(result)
    assert (result.exit_code, wrong(found)) == (0, [])
    assert found["queues"]["state"] == "unchecked"
    with silent_worker(database):
        assert wrong(findings(doctor("--json"))) == ["large"]


def test_an_api_that_is_away_or_another_program_is_named(well: Settings, doctor: Doctor) -> None:
    found = findings(doctor("--json", server=f"http://{NOBODY}"))
    assert wrong(found) == ["api"]
    assert found["api"]["faults"][0]["sentence"] == f"No service answers at http://{NOBODY} (ConnectError)."


def test_an_api_of_another_version_is_named(well: Settings, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.doctor.judging_servers.VERSION", "9.9.9")
    found = findings(doctor("--json"))
    assert wrong(found) == ["api"]
    assert found["api"]["faults"][0]["sentence"] == f"It runs version {VERSION}, and this command is 9.9.9."


def test_addresses_that_swallow_everything_end_it_in_time_and_nothing_reachable_is_exit_code_3(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "LIMIT_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        place = f"127.0.0.1:{hole.getsockname()[1]}"
        monkeypatch.setenv("TRIM_DATABASE_URL", f"postgresql://trim:hunter2@{place}/trim")
        monkeypatch.setenv("TRIM_BROKER_URL", f"amqp://trim:hunter2@{place}//")
        began = time.monotonic()
        result = doctor("--json", server=f"http://{place}")
        took_s = time.monotonic() - began
    assert result.exit_code == 3
    assert took_s < 4
    found = findings(result)
    assert wrong(found) == ["database", "api", "broker"]
    for name in ("database", "broker"):
        assert found[name]["faults"][0]["sentence"].endswith(
            f"{place}{'/trim' if name == 'database' else ''}: It did not answer within 2 s."
        )
    assert "hunter2" not in result.output


def test_an_empty_folder_leads_to_the_command_that_starts_a_service(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("TRIM_DATABASE_URL", "TRIM_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    result = doctor(server=f"http://{NOBODY}")
    assert result.exit_code == 3
    shown = " ".join(result.stdout.split())
    assert "-> Start one (make serve, or python -m services.api), or name its address with --server." in shown
