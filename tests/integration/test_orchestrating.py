"""The orchestrator's two halves on a real database: what one bad row or message does to the others is nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from services.orchestrator import applying
from services.orchestrator.applying import apply_deliveries
from services.orchestrator.sweeping import admit, attend, prune
from shared.bus.consumer import Delivery
from shared.bus.topology import DELIVERY_LIMIT, DeadLetter
from shared.domain.options import Options
from shared.machine.state import ProblemAdmitted
from shared.messages import CancelWork, GenerateSteps, WorkerSeen, WorkFailed, derive_id, encode
from shared.policies.threshold import Threshold
from shared.store.admission import SeenProcess, record_processes
from shared.store.database import Database, DatabaseBusy
from shared.store.submissions import Submission, submit_problem

pytestmark = pytest.mark.servers


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url)) as made:
        yield made


def submit(database: Database) -> UUID:
    policy = Threshold()
    submission = Submission(question="What?", reference=None, policy=policy, options=Options(plan=policy.plan))
    with database.session() as session:
        return submit_problem(session, submission, None).id


def execute(database: Database, statement: str, **values: Any) -> None:
    with database.begin() as connection:
        connection.execute(text(statement), values)


def read(database: Database, problem_id: UUID) -> tuple[Any, ...]:
    with database.begin() as connection:
        query = text("SELECT status, failure_code, failure_detail, due_at FROM problems WHERE id = :id")
        return tuple(connection.execute(query, {"id": problem_id}).one())


def delivery(body: bytes, *, deliveries: int = 1) -> Delivery:
    return Delivery(body=body, is_redelivered=deliveries > 1, deliveries=deliveries)


def failed(problem_id: UUID) -> WorkFailed:
    return WorkFailed(
        id=derive_id(problem_id), problem_id=problem_id, epoch=0, request_number=0, role="small", code="broken",
        detail="Broken.", retryable=False, worker="w",
    )  # fmt: skip


def test_a_queued_problem_that_cannot_be_read_fails_and_the_others_start(database: Database) -> None:
    unreadable, good = submit(database), submit(database)
    execute(database, "UPDATE problems SET policy = 'of-tomorrow' WHERE id = :id", id=unreadable)
    started = admit(database, window=10)
    assert [each.problem_id for each in started if isinstance(each, GenerateSteps)] == [good]
    status, code, detail, _ = read(database, unreadable)
    assert (status, code) == ("failed", "unreadable")
    assert "UnknownPolicy" in detail
    assert admit(database, window=10) == [], "it is not found again"


def test_a_running_problem_that_cannot_be_read_fails_and_its_events_are_kept(database: Database) -> None:
    unreadable, good = submit(database), submit(database)
    admit(database, window=10)
    execute(database, "UPDATE problems SET due_at = now() WHERE id = :id", id=unreadable)
    execute(database, 'UPDATE problems SET options = \'{"lookahead": "far"}\' WHERE id = :id', id=unreadable)
    assert attend(database) == []
    assert read(database, unreadable)[:2] == ("failed", "unreadable")
    outgoing = apply_deliveries(database, [delivery(encode(failed(each))) for each in (unreadable, good)])
    [letter] = [each for each in outgoing if isinstance(each, DeadLetter)]
    assert letter.body == encode(failed(unreadable))
    assert CancelWork(problem_id=good, epoch=1) in outgoing
    assert read(database, good)[:2] == ("failed", "broken")


def test_a_problem_that_the_machine_fails_on_does_not_stop_the_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = submit(database), submit(database)
    real = applying.apply

    def breaks(state: Any, event: Any, **more: Any) -> Any:
        if state.problem_id == bad and isinstance(event, ProblemAdmitted):
            raise RecursionError
        return real(state, event, **more)

    monkeypatch.setattr(applying, "apply", breaks)
    started = admit(database, window=10)
    assert [each.problem_id for each in started if isinstance(each, GenerateSteps)] == [good]
    assert read(database, bad)[:3] == ("failed", "unreadable", "The orchestrator failed on it (RecursionError).")


def test_a_message_that_breaks_the_transaction_of_all_is_found(database: Database) -> None:
    problem_id = submit(database)
    admit(database, window=10)
    hostile = WorkerSeen(role="small", worker="a\x00b", model="m", seen_at=datetime.now(UTC))
    [letter, *rest] = apply_deliveries(database, [delivery(encode(hostile)), delivery(encode(failed(problem_id)))])
    assert isinstance(letter, DeadLetter)
    assert letter.body == encode(hostile)
    assert rest == [CancelWork(problem_id=problem_id, epoch=1)]


def test_a_message_that_was_delivered_too_often_is_kept_aside(database: Database) -> None:
    problem_id = submit(database)
    admit(database, window=10)
    body = encode(failed(problem_id))
    [letter] = apply_deliveries(database, [delivery(body, deliveries=DELIVERY_LIMIT + 1)])
    assert isinstance(letter, DeadLetter)
    assert read(database, problem_id)[0] == "running"
    assert apply_deliveries(database, [delivery(body, deliveries=DELIVERY_LIMIT)]) != []
    assert read(database, problem_id)[0] == "failed"


def test_what_is_long_over_is_forgotten(database: Database) -> None:
    old, recent = submit(database), submit(database)
    admit(database, window=10)
    apply_deliveries(database, [delivery(encode(failed(each))) for each in (old, recent)])
    execute(database, "UPDATE problems SET finished_at = now() - interval '25 hours' WHERE id = :id", id=old)
    now = datetime.now(UTC)
    with database.begin() as connection:
        silent = SeenProcess("silent", role="small", model="m", seen_at=now - timedelta(hours=2))
        record_processes(connection, [silent, SeenProcess("alive", role="small", model="m", seen_at=now)])
    assert prune(database) == ["silent"]
    with database.begin() as connection:
        assert connection.scalars(text("SELECT DISTINCT problem_id FROM inbox")).all() == [recent]
        assert connection.scalars(text("SELECT name FROM processes")).all() == ["alive"]


def test_a_busy_database_is_not_called_away(database_url: str) -> None:
    with closing(Database(database_url, statement_timeout_s=1)) as database, pytest.raises(DatabaseBusy):
        execute(database, "SELECT pg_sleep(30)")


def test_updates_of_a_running_problem_touch_no_index(database: Database) -> None:
    problem_id = submit(database)
    admit(database, window=10)
    apply_deliveries(database, [delivery(encode(failed(uuid4())))])
    for attempt in range(20):
        execute(database, "UPDATE problems SET due_at = now(), attempts = :n WHERE id = :id", n=attempt, id=problem_id)
    with database.begin() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    with database.begin() as connection:
        query = text("SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'problems'")
        hot, updates = connection.execute(query).one()
    assert hot >= 20, f"only {hot} of {updates} updates stayed within their page"
