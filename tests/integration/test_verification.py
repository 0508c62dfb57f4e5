"""`python -m migrations verify` passes a sound record, and names what is wrong with any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from migrations import __main__ as program
from migrations.verifying import verify
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.sweeping import attend
from shared.bus.publisher import Publisher
from shared.bus.topology import DeadLetter
from shared.domain.drafts import Finish, UnfinishedWork
from shared.domain.options import Plan, PolicyChoice
from shared.domain.roles import WorkerRole
from shared.messages import GenerateSteps, StepsScored
from shared.settings import Settings
from shared.store import cancelling, submissions, verification
from shared.store.checks import Scope
from shared.store.database import Database
from shared.store.reasoning_state import PostgresStore
from shared.store.tables import DEFAULT_TENANT
from shared.store.verification import Finding
from stack.scratch import scratch_database, scratch_prefix, scratch_queues
from tests.integration.solving import (
    NOW,
    empty,
    fail,
    follow,
    hear,
    make_submission,
    rows,
    solve,
    solve_from,
    start,
    submit,
    write,
)
from tests.integration.test_retention import DECISIONS, STEPS, run, submit_in

pytestmark = pytest.mark.servers

ACCEPTING = PolicyChoice(name="small-only", revision=1, parameters={})


@pytest.fixture(scope="module")
def shared_database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


@pytest.fixture
def database(shared_database: Database) -> Database:
    empty(shared_database)
    return shared_database


def url_of(database: Database) -> str:
    return database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def verified(database: Database, *, allow_open: bool = False, **settings: str) -> tuple[bool, list[str]]:
    """Return whether all checks passed, and their lines."""
    lines: list[str] = []
    configured = Settings.model_validate({"database_url": url_of(database), "broker_url": None, **settings})
    return verify(configured, allow_open=allow_open, tell=lines.append), lines


def failed(database: Database, **settings: str) -> list[str]:
    return [line for line in verified(database, **settings)[1] if line.startswith("FAILED")]


def submit_batch(database: Database, size: int) -> list[UUID]:
    with database.session() as session:
        made = submissions.submit_batch(
            session, DEFAULT_TENANT, [make_submission(shadows=[ACCEPTING])] * size, None, silence_s=15
        )
        batch = str(made.id)
    return [row["id"] for row in rows(database, "SELECT id FROM problems WHERE batch_id = :id", id=batch)]


def start_all(database: Database, count: int) -> list[GenerateSteps]:
    """Submit and start problems; return their commands in the order of their submission."""
    ids = submit_batch(database, count)
    commands = start(database)
    return [commands[each] for each in ids]


def start_in(database: Database, monkeypatch: pytest.MonkeyPatch, month: datetime) -> GenerateSteps:
    """Submit a problem in a month, and start it."""
    problem_id = submit_in(database, monkeypatch, month)
    return start(database, now=month)[problem_id]


def corrupt(database: Database, statement: str) -> None:
    """Change rows as no code could: triggers and foreign keys are off."""
    with psycopg.connect(url_of(database), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        changed = connection.execute(statement.encode())
        assert changed.rowcount > 0, "nothing was corrupted"


def test_a_sound_record_passes(database: Database) -> None:
    for command in start_all(database, 2):
        solve_from(database, command)
    run(database, f"SELECT erase_problem('{command.problem_id}')")
    passed, lines = verified(database)
    assert passed, lines
    assert "ok      Every problem has ended. (2 problems)\n" in lines
    assert "ok      Every batch has its problems. (1 batches)\n" in lines
    assert all(line.startswith("ok  ") and line.count("\n") == 1 for line in lines)


def test_an_empty_record_passes(database: Database) -> None:
    assert verified(database)[0]


def test_open_problems_are_counted_and_named_and_may_be_allowed(database: Database) -> None:
    accepted, escalated, waiting = start_all(database, 3)
    hear(database, write(accepted, "One."))
    hear(database, write(follow(hear(database, write(escalated, "Bad.", score=0.1))), "Good."))
    ids = [submit(database), *(each.problem_id for each in (accepted, escalated, waiting))]
    [line] = failed(database)
    assert "Every problem has ended. Not so: 4 of 4 problems" in line
    assert all(str(each) in line for each in ids)
    assert verified(database, allow_open=True)[0]


CORRUPTIONS = {
    "UPDATE problems SET finished_at = NULL": "Every problem has ended",
    "UPDATE problems SET verdict = NULL": "Status, result and times",
    "UPDATE problems SET status = 'failed', failure_code = 'x', stop_reason = NULL, verdict = 'correct'": (
        "Status, result and times"
    ),
    "UPDATE problems SET stop_reason = NULL": "Status, result and times",
    "UPDATE problems SET failure_code = 'x'": "Status, result and times",
    "UPDATE problems SET due_at = now()": "Status, result and times",
    "UPDATE problems SET status = 'running'": "Status, result and times",
    "UPDATE problems SET pending = '[1]'": "Status, result and times",
    "UPDATE batches SET size = 2": "Every batch has its problems",
    "UPDATE problems SET batch_index = 1": "Every batch has its problems",
    "DELETE FROM steps WHERE step = 1": "The steps of a problem have no gap",
    "DELETE FROM steps WHERE step = 2": "The steps of a problem have no gap",
    "UPDATE steps SET step = 3 WHERE step = 2": "The steps of a problem have no gap",
    "UPDATE problems SET step_count = 4": "The steps of a problem have no gap",
    "DELETE FROM decisions WHERE number = 0": "The decisions of a problem have no gap",
    "DELETE FROM decisions WHERE number = 1": "The decisions of a problem have no gap",
    "DELETE FROM decisions WHERE number = 2": "The decisions of a problem have no gap",
    "DELETE FROM decisions": "The decisions of a problem have no gap",
    "UPDATE problems SET decision_count = 2": "The decisions of a problem have no gap",
    "UPDATE decisions SET number = 1 WHERE number = 2": "no number twice",
    "UPDATE decisions SET number = 7 WHERE number = 2": "The decisions of a problem have no gap",
    "UPDATE decisions SET step = 2 WHERE number = 0": "in the order of its steps",
    "UPDATE decisions SET epoch = 2 WHERE number = 0": "in the order of its steps",
    "UPDATE problems SET epoch = 0": "in the order of its steps",
    "UPDATE decisions SET draft_id = '00000000-0000-0000-0000-000000000000'": "No draft is decided twice",
    "UPDATE decisions SET draft_id = (SELECT draft_id FROM decisions WHERE number = 0) WHERE number = 2": (
        "No draft is decided twice"
    ),
    "UPDATE steps SET text = 'Other.' WHERE step = 0": "An accepted draft is the step",
    "UPDATE steps SET score = 0.1 WHERE step = 0": "An accepted draft is the step",
    "UPDATE steps SET tokens = 6 WHERE step = 0": "An accepted draft is the step",
    "UPDATE steps SET author = 'large' WHERE step = 0": "An accepted draft is the step",
    "UPDATE decisions SET action = 'accept' WHERE number = 1": "An accepted draft is the step",
    "UPDATE steps SET author = 'small' WHERE step = 1": "The large model wrote each escalated step",
    "UPDATE decisions SET action = 'escalate' WHERE number = 0": "Every step has the decision",
    "UPDATE decisions SET step = 1 WHERE number = 0": "Every step has the decision",
    "UPDATE problems SET small_kept = small_kept + 1": "The kept tokens",
    "UPDATE problems SET large_out = 0": "The kept tokens",
    "UPDATE problems SET small_discarded = 0": "The escalations and discarded tokens",
    "UPDATE steps SET estimated_tokens = 6 WHERE step = 0": "An accepted draft is the step",
    "UPDATE steps SET estimated_tokens = 6 WHERE step = 1": "The estimated tokens",
    "UPDATE decisions SET draft_estimated_tokens = 6 WHERE number = 1": "The estimated tokens",
    "UPDATE problems SET escalation_count = 2": "The escalations and discarded tokens",
    "UPDATE problems SET prm_calls = -1": "No count of a ledger is negative",
    "UPDATE shadow_decisions SET number = 5 WHERE number = 1": "Every decision of a shadow",
    "UPDATE shadow_decisions SET agrees = NOT agrees WHERE number = 1": "Every decision of a shadow",
    "UPDATE shadow_decisions SET decided_at = now() - interval '1 y' WHERE number = 1": "Every decision of a shadow",
    "UPDATE shadow_decisions SET shadow = 1 WHERE number = 1": "no shadow of that decision is missing",
    "UPDATE problems SET shadows = '[{}, {}]'": "no shadow of that decision is missing",
    "UPDATE problems SET created_at = started_at + interval '1 s'": "The times of a problem",
    "UPDATE problems SET finished_at = started_at": "The times of a problem",
    "UPDATE problems SET cancel_requested_at = finished_at + interval '1 s'": "The times of a problem",
    "UPDATE steps SET accepted_at = accepted_at + interval '1 h' WHERE step = 2": "none is after its end",
    "UPDATE steps SET accepted_at = (SELECT started_at FROM problems) WHERE step = 1": "The times of a problem",
    "UPDATE decisions SET decided_at = decided_at - interval '1 h' WHERE number = 1": "The times of a problem",
    "UPDATE decisions SET decided_at = decided_at + interval '1 ms' WHERE number = 0": "The times of a problem",
    "UPDATE problems SET deadline_at = finished_at": "No problem succeeded at or after its deadline",
    "UPDATE decisions SET draft_prefix_digest = '0' WHERE number = 1": "Every decided draft continues",
    "UPDATE problems SET question = 'Another?'": "Every decided draft continues",
    "UPDATE problems SET erased_at = now()": "An erased problem has no text",
    "UPDATE problems SET erased_at = now(), question = '', answer = NULL": "An erased problem has no text",
}


@pytest.mark.parametrize("statement", CORRUPTIONS)
def test_a_corrupted_row_is_found_by_its_check_and_named(database: Database, statement: str) -> None:
    [problem_id] = submit_batch(database, 1)
    solve(database, problem_id)
    batch = str(rows(database, "SELECT id FROM batches")[0]["id"])
    corrupt(database, statement)
    found = [line for line in failed(database) if CORRUPTIONS[statement] in line]
    assert found, f"{CORRUPTIONS[statement]}: {failed(database)}"
    assert found[0].rstrip().endswith((str(problem_id), batch))
    broken = [each for each in examined(database, Scope(problem=problem_id)) if each.offenders]
    named = [each for each in broken if CORRUPTIONS[statement] in each.sentence]
    assert str(named[0].examples[0]) in {str(problem_id), batch}
    assert all(rows(database, each.look.replace(":", r"\:")) for each in broken), "the SQL shows the rows"


def examined(database: Database, scope: Scope) -> list[Finding]:
    with verification.snapshot(database) as connection:
        detached = verification.find_detached(connection, scope)
        found = [verification.count_open(connection, scope), *verification.verify(connection, detached, scope)]
    assert len(found) == verification.COUNT + 1
    return found


def test_a_scope_leaves_out_what_is_wrong_with_other_problems(database: Database) -> None:
    first, second = submit_batch(database, 2)
    commands = start(database)
    for each in (first, second):
        solve_from(database, commands[each])
    corrupt(database, f"DELETE FROM steps WHERE problem_id = '{first}'")
    corrupt(database, f"UPDATE decisions SET draft_prefix_digest = '0' WHERE problem_id = '{first}'")
    assert not any(each.offenders for each in examined(database, Scope(problem=second)))
    for scope in (Scope(problem=first), Scope(since=datetime.now(UTC) - timedelta(minutes=5))):
        broken = {each.name for each in examined(database, scope) if each.offenders}
        assert {"steps", "accepted", "kept", "prefixes"} <= broken
    later = examined(database, Scope(since=datetime.now(UTC) + timedelta(days=1)))
    assert not any(each.offenders or each.counted for each in later)


def test_a_draft_that_two_problems_decided_is_found_in_both(database: Database) -> None:
    ids = submit_batch(database, 2)
    commands = start(database)
    for each in ids:
        solve_from(database, commands[each])
    first, second = sorted(ids)
    draft = f"SELECT draft_id FROM decisions WHERE problem_id = '{first}' AND number = 0"
    corrupt(database, f"UPDATE decisions SET draft_id = ({draft}) WHERE problem_id = '{second}' AND number = 0")
    [line] = failed(database)
    assert "No draft is decided twice, in one problem or in two. Not so: 2 of" in line
    assert str(first) in line
    assert str(second) in line


def test_a_decided_draft_that_an_open_problem_would_book_again_is_found(database: Database) -> None:
    [command] = start_all(database, 1)
    hear(database, write(command, "One."))
    assert verified(database, allow_open=True)[0]
    corrupt(database, "DELETE FROM inbox USING decisions WHERE inbox.id = decisions.draft_id")
    [line] = [each for each in failed(database) if "Every problem has ended" not in each]
    assert "The inbox of an open problem has every draft that was decided. Not so: 1 of" in line
    assert line.rstrip().endswith(str(command.problem_id))


def test_a_record_that_orchestrators_with_different_clocks_wrote_is_in_order(database: Database) -> None:
    [command, cancelled] = start_all(database, 2)
    for score, ahead_s in ((0.9, 5), (0.1, -5), (0.9, 2), (0.9, -60)):
        now = NOW + timedelta(seconds=ahead_s)
        command = follow(hear(database, write(command, f"Score {score} at {ahead_s}.", score=score), now=now))
    assert hear(database, write(command, "\\boxed{1}"), now=NOW - timedelta(days=1)) == []
    with database.session() as session:
        cancelling.request_cancel(session, DEFAULT_TENANT, cancelled.problem_id)
    store = PostgresStore(database)
    attend(store, roles=lambda *_: None, policies=PolicyCache(store), now=lambda: NOW - timedelta(days=1))
    ended = rows(database, "SELECT status, finished_at FROM problems ORDER BY status")
    assert [each["status"] for each in ended] == ["cancelled", "succeeded"]
    assert ended[1]["finished_at"] == NOW + timedelta(seconds=5), "no later clock has been read since"
    passed, lines = verified(database)
    assert passed, lines


def without_words(command: GenerateSteps) -> StepsScored:
    """End the solution with a draft that becomes no step."""
    event = write(command, "...")
    assert isinstance(event, StepsScored)
    return event.model_copy(update={"drafts": tuple(replace(each, finish=Finish.ENDED) for each in event.drafts)})


def test_solutions_that_end_without_words_are_sound(database: Database) -> None:
    commands = list(start_all(database, 3))
    for command in commands[:2]:
        [follows] = hear(database, write(command, "One."))
        assert isinstance(follows, GenerateSteps)
        event = without_words(follows)
        if command is commands[1]:  # The draft is escalated, and the large model writes no words either.
            event = write(follow(hear(database, write(follows, "..."))), "...")
        assert not any(isinstance(each, GenerateSteps) for each in hear(database, event))
    hear(database, fail(commands[2].problem_id))
    ended = [tuple(row.values()) for row in rows(database, "SELECT status, stop_reason FROM problems ORDER BY id")]
    assert ended == [("succeeded", "final_answer"), ("succeeded", "degenerate"), ("failed", None)]
    passed, lines = verified(database)
    assert passed, lines


def test_an_escalated_step_that_the_budget_could_not_pay_is_decided_again_and_sound(database: Database) -> None:
    problem_id = submit(database, plan=Plan(large_budget=9), max_attempts=3)
    large = follow(hear(database, write(start(database)[problem_id], "Bad.", score=0.1)))
    assert large.author == "large"
    failure = fail(problem_id).model_copy(
        update={
            "epoch": large.epoch,
            "request_number": large.request_number,
            "role": WorkerRole.LARGE,
            "retryable": True,
            "unfinished": UnfinishedWork(role=WorkerRole.LARGE, tokens=9, opens_call=True),
        }
    )
    hear(database, failure)
    store = PostgresStore(database)
    again = attend(store, roles=lambda *_: None, policies=PolicyCache(store), now=lambda: NOW + timedelta(hours=1))
    hear(database, write(follow(again.outgoing), "The answer is \\boxed{1}.", score=0.1))
    decided = rows(database, "SELECT step, action, reason FROM decisions ORDER BY number")
    assert [tuple(each.values()) for each in decided] == [
        (0, "escalate", "score_below_threshold"),
        (0, "accept", "budget_spent"),
    ]
    passed, lines = verified(database)
    assert passed, lines


def test_detached_months_are_left_out_and_named(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One problem begins before the detached month and ends after it; the other lies within it."""
    december, january, february = (datetime(2026 + (month < 12), month, 9, tzinfo=UTC) for month in (12, 1, 2))
    with closing(Database(database_url)) as database:
        for block in (*DECISIONS[:3], *STEPS[:3]):
            run(database, block)
        command = start_in(database, monkeypatch, december)
        for number, moment in enumerate((december, january, january, february)):
            command = follow(hear(database, write(command, f"More of {number}."), now=moment))
        hear(database, write(command, "\\boxed{1}"), now=february)
        solve_from(database, start_in(database, monkeypatch, january), now=january)
        passed, lines = verified(database)
        assert passed, lines
        assert "detached" not in "".join(lines)

        for block in (DECISIONS[4], STEPS[3]):
            run(database, block)
        passed, lines = verified(database)
        assert passed, lines
        assert lines[-2].endswith("left out: steps of 2027-01; decisions of 2027-01.\n")

        corrupt(database, "DELETE FROM decisions WHERE number = 4")
        corrupt(database, "DELETE FROM steps WHERE step = 4")
        found = failed(database)
        assert "The steps of a problem have no gap, and the problem counts them. Not so: 1 of 4" in found[0]
        assert "The decisions of a problem have no gap and no number twice" in found[1]
        assert all(str(command.problem_id) in line for line in found)


def test_dead_letters_are_counted_in_both_brokers(database: Database, rabbitmq_server: str) -> None:
    for broker_url in (rabbitmq_server, url_of(database).replace("postgresql", "pgmq", 1)):
        settings = Settings(broker_url=broker_url, queue_prefix=scratch_prefix())  # type: ignore[arg-type]
        with scratch_queues(settings):
            configured = {"broker_url": broker_url, "queue_prefix": settings.queue_prefix}
            assert failed(database, **configured) == []
            with closing(Publisher(settings)) as publisher:
                publisher.publish([DeadLetter("events", b"{", "it is broken")])
            [line] = failed(database, **configured)
            assert line.endswith(f"No message is a dead letter. Not so: 1 in {settings.queue_prefix}.events.dead\n")


def test_the_command_ends_with_1_if_a_check_fails_and_with_0_otherwise(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(database)
    monkeypatch.setenv("TRIM_DATABASE_URL", url_of(database))
    monkeypatch.delenv("TRIM_BROKER_URL", raising=False)
    monkeypatch.setattr("sys.argv", ["migrations", "verify"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 1
    monkeypatch.setattr("sys.argv", ["migrations", "verify", "--allow-open"])
    program.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "Every problem has ended." in line] == ["FAILED", "ok"]
