"""`trim check`: what a person and a program get of a sound and of a broken record, and the exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.app import app
from cli.checking import NoSuchProblem
from shared.bus.publisher import Publisher
from shared.bus.topology import DeadLetter
from shared.settings import Settings
from shared.store.database import Database
from stack.scratch import scratch_database
from tests.integration.solving import empty, rows, solve, submit
from tests.integration.test_verification import corrupt, url_of

pytestmark = pytest.mark.servers

Check = Callable[..., Result]


@pytest.fixture(scope="module")
def shared_database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


@pytest.fixture
def problem(shared_database: Database) -> UUID:
    """A solved problem, the only one of the database."""
    empty(shared_database)
    problem_id = submit(shared_database)
    solve(shared_database, problem_id)
    return problem_id


@pytest.fixture
def check(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setenv("TRIM_DATABASE_URL", url_of(shared_database))
    monkeypatch.delenv("TRIM_BROKER_URL", raising=False)
    return lambda *arguments: CliRunner().invoke(app, ["check", *arguments], catch_exceptions=False)


def test_a_sound_record_is_one_line_a_check_and_exit_code_0(check: Check, problem: UUID) -> None:
    done = check()
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert len(heads) == 20
    assert all(line.startswith("ok ") for line in heads)


def test_a_broken_record_names_meaning_ids_and_sql_and_is_exit_code_1(
    check: Check, problem: UUID, shared_database: Database
) -> None:
    corrupt(shared_database, "DELETE FROM steps WHERE step = 1")
    done = check()
    assert done.exit_code == 1
    shown = done.stdout.partition("BROKEN  The steps of a problem have no gap, and the problem counts them.\n")[2]
    assert shown.splitlines()[:3] == [
        "        A write was lost, or done twice.",
        "        1 problem:",
        f"        {problem}",
    ]
    look = shown.splitlines()[3].strip().removeprefix("Look: ")
    assert str(problem) in look
    assert rows(shared_database, look)
    found = json.loads(check("--json", "--problem", str(problem)).stdout)
    assert found["is_sound"] is False
    [steps] = [each for each in found["checks"] if each["name"] == "steps"]
    assert (steps["holds"], steps["offenders"], steps["examples"]) == (False, 1, [str(problem)])
    assert json.loads(check("--json", "--since", "2999-01-01").stdout)["is_sound"] is True


def test_open_problems_are_a_fault_only_if_all_should_have_ended(
    check: Check, problem: UUID, shared_database: Database
) -> None:
    submit(shared_database)
    done = check()
    assert (done.exit_code, "open    1 of 2 problems have not ended." in done.stdout) == (0, True)
    assert check("--all-ended").exit_code == 1


def test_dead_letters_are_a_fault(
    check: Check, problem: UUID, shared_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = url_of(shared_database).replace("postgresql", "pgmq", 1)
    monkeypatch.setenv("TRIM_BROKER_URL", broker)
    assert check().exit_code == 0
    with closing(Publisher(Settings.model_validate({"broker_url": broker}))) as publisher:
        publisher.publish([DeadLetter("events", b"{", "it is broken")])
    done = check()
    assert (done.exit_code, "Found 1 in trim.events.dead." in done.stdout) == (1, True)
    assert json.loads(check("--json").stdout)["dead_letters"]["trim.events.dead"] == 1


def test_a_problem_that_does_not_exist_and_two_scopes_are_wrong_usage(check: Check, problem: UUID) -> None:
    with pytest.raises(NoSuchProblem):
        check("--problem", str(uuid4()))
    assert check("--problem", str(problem), "--since", "2027-01-01").exit_code == 2
    assert check("--since", "yesterday").exit_code == 2


def test_a_database_that_does_not_answer_is_exit_code_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIM_DATABASE_URL", "postgresql://trim:hunter2@127.0.0.1:1/trim")
    done = CliRunner().invoke(app, ["check"])
    assert done.exit_code == 3
    assert done.stderr.startswith("trim: The database does not answer; check TRIM_DATABASE_URL")
    assert "hunter2" not in done.output
    monkeypatch.delenv("TRIM_DATABASE_URL")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="TRIM_DATABASE_URL is not set"):
        CliRunner().invoke(app, ["check"], catch_exceptions=False)
    (tmp_path / ".state" / "postgres").mkdir(parents=True)
    done = CliRunner().invoke(app, ["check"])
    assert (done.exit_code, "No embedded Postgres runs in this folder" in done.stderr) == (3, True)
    assert "TRIM_DATABASE_URL" not in os.environ
