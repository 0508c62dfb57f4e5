"""Another session has locked rows: what is locked waits, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest

from chaos.deployment import Deployment, deployed
from migrations.verifying import verify
from services.orchestrator.setting_aside import SetAside
from shared.messages import WorkerSeen, encode
from shared.store import database as databases
from shared.store.admission import record_processes
from shared.store.database import Database, DatabaseUnavailable
from shared.store.port import Change, SeenProcess
from shared.store.reasoning_state import PostgresStore
from stack.client import ApiRefused
from stack.scratch import scratch_database
from tests.integration.solving import NOW, deliver, empty, fail, follow, hear, rows, start, submit, take, write

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def url(postgres_server: str) -> Iterator[str]:
    with scratch_database(postgres_server) as made:
        yield made


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database(url, name="trim-test", lock_timeout_s=0.1)) as made:
        empty(made)
        yield made


@contextmanager
def locked(url: str, statement: str, problem_id: UUID | None = None) -> Iterator[None]:
    with psycopg.connect(url, application_name="a person") as connection:
        assert connection.execute(f"{statement} FOR UPDATE".encode(), {"id": problem_id}).rowcount == 1
        yield
        connection.rollback()


class Hand:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


SCRIPT = {
    "default": [
        {"small": f"Step {index} as drafted.", "large": f"Step {index} as it should be.", "score": 0.1 if index == 2
         else 0.9, "small_ms": 20, "large_ms": 20, "prm_ms": 10}
        for index in range(7)
    ] + [{"small": "It is \\boxed{7}.", "large": "It is \\boxed{7}.", "small_ms": 20, "large_ms": 20, "prm_ms": 10}],
}  # fmt: skip
LARGE_ONLY, SMALL_ONLY = {"name": "large-only"}, {"name": "small-only"}


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: str, rabbitmq_server: str
) -> Iterator[Deployment]:
    """The service with two orchestrators."""
    folder, another = tmp_path_factory.mktemp("service"), {"another": ["-m", "services.orchestrator"]}
    with (
        scratch_database(postgres_server) as url,
        deployed(
            folder, database_url=url, broker_url=rabbitmq_server, script=SCRIPT, window="6", more_roles=another
        ) as running,
    ):
        yield running


def test_a_locked_problem_waits_alone(deployment: Deployment) -> None:
    ids = deployment.submit(12, lookahead=4, step_timeout_s=120)
    deployment.until(lambda: len(deployment.rows("SELECT 1 FROM steps")) >= 12)
    [running] = deployment.rows("SELECT id FROM problems WHERE status = 'running' LIMIT 1")
    bad = str(running["id"])
    with locked(deployment.database_url, "SELECT FROM problems WHERE id = %(id)s", running["id"]):
        with ThreadPoolExecutor(30) as pool:
            cancels = [pool.submit(deployment.api.cancel, bad) for _ in range(30)]
            others = deployment.submit(12, lookahead=4)
            deployment.finish([*others, *(each for each in ids if each != bad)])
            refusals = [each.exception() for each in cancels]
            assert {each.reason for each in refusals if isinstance(each, ApiRefused)} == {"problem_locked"}, refusals
        deployment.until(lambda: "a person" in json.dumps(deployment.api.readiness()))
        assert deployment.problems([bad])[0]["status"] == "running"
    rows = deployment.finish([*ids, *others])
    assert {(row["status"], row["answer"], row["attempts"]) for row in rows} == {("succeeded", "7", 0)}
    check_record(deployment)


def test_problems_whose_role_is_away_leave_the_window_to_others(deployment: Deployment) -> None:
    deployment.roles.kill("large")
    waiting = deployment.submit(12, policy=LARGE_ONLY)
    deployment.until(lambda: deployment.rows("SELECT 1 FROM problems WHERE absences ? 'large'"))
    going = deployment.submit(12, policy=SMALL_ONLY)
    deployment.finish(going)
    assert {row["status"] for row in deployment.problems(waiting)} <= {"queued", "running"}
    deployment.roles.start("large")
    assert {row["status"] for row in deployment.finish([*waiting, *going])} == {"succeeded"}
    check_record(deployment)


def check_record(deployment: Deployment) -> None:
    """Check what `python -m migrations verify` checks, the order of times among it, and that no message was buried."""
    said: list[str] = []
    assert verify(deployment.settings, tell=said.append, allow_open=False), said
    assert set(deployment.dead_letters().values()) == {0}


@pytest.mark.parametrize(
    "statement", ["SELECT FROM problems WHERE id = %(id)s", "SELECT FROM steps WHERE problem_id = %(id)s"]
)
def test_only_the_events_of_a_locked_problem_are_set_aside(url: str, database: Database, statement: str) -> None:
    """The first step is the large model's: the PRM scores it with the draft after it, which updates its row."""
    bad, good = submit(database), submit(database)
    commands = {
        key: follow(hear(database, write(each, "A draft.", score=0.1))) for key, each in start(database).items()
    }
    commands = {key: follow(hear(database, write(each, "A large step."))) for key, each in commands.items()}
    hand = Hand()
    aside = SetAside(monotonic=hand)
    of_bad, of_good, late = (deliver(encode(write(commands[key], "A step."))) for key in (bad, good, bad))
    with locked(url, statement, bad):
        taken = take(database, of_bad, of_good, aside=aside)
        assert follow(taken.outgoing).problem_id == good
        assert list(taken.settled) == [of_good]
        taken = take(database, late, aside=aside)
        assert (taken.outgoing, list(taken.settled), len(aside)) == ([], [], 2), "a later one waits with it"
        assert aside.due_in_s > 0
        hand.at += 60  # More than any delay.
        assert list(take(database, aside=aside).settled) == [], "it is tried again, and still locked"
    hand.at += 60
    taken = take(database, aside=aside)
    assert follow(taken.outgoing).problem_id == bad
    assert list(taken.settled) == [of_bad, late]
    assert (len(aside), aside.due_in_s) == (0, float("inf"))
    assert [row["step_count"] for row in rows(database, "SELECT step_count FROM problems")] == [2, 2], "each once"


def test_a_locked_heartbeat_delays_no_other_and_no_event(url: str, database: Database) -> None:
    with database.begin() as connection:
        record_processes(connection, [SeenProcess("locked", role="small", model="m", seen_at=NOW)])
    seen = [
        encode(WorkerSeen(role="small", worker=name, model="m", seen_at=datetime.now(UTC)))
        for name in ("locked", "free")
    ]
    problem_id = submit(database)
    start(database)
    with locked(url, "SELECT FROM processes WHERE name = 'locked'"):
        taken = take(database, *map(deliver, [*seen, encode(fail(problem_id))]))
    assert len(taken.settled) == 3
    assert len(taken.outgoing) == 1
    assert [row["name"] for row in rows(database, "SELECT name FROM processes ORDER BY name")] == ["free", "locked"]


@pytest.mark.parametrize("saves", [False, True])
def test_the_server_ends_a_transaction_whose_process_hangs_with_locks(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch, *, saves: bool
) -> None:
    problem_id = submit(database)
    monkeypatch.setattr(databases, "IDLE_TIMEOUT_S", 1)
    with closing(Database(url, name="trim-hanging")) as hanging, pytest.raises(DatabaseUnavailable):
        _hang(PostgresStore(hanging), problem_id, url, saves=saves)


def _hang(store: PostgresStore, problem_id: UUID, url: str, *, saves: bool) -> None:
    """Open a transaction that locks a problem, and return once another session has locked it."""
    with store.begin() as transaction:
        found = transaction.lock([problem_id], heard=[problem_id]).values()
        if saves:
            transaction.save([Change(each, each.state.evolve(attempts=1)) for each in found])
        with psycopg.connect(url, autocommit=True, options="-c lock_timeout=60s") as waiting:
            waiting.execute("SELECT FROM problems WHERE id = %s FOR UPDATE", [problem_id])
        transaction.find_existing([problem_id])
