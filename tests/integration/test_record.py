"""The record of a problem: events write it, users and auditors read it, and it cannot be changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError

from shared.domain.ledger import Ledger
from shared.store import queries
from shared.store.cursors import BadCursor, make_cursor
from shared.store.database import Database
from shared.store.queries import Page
from shared.store.tables import DEFAULT_TENANT, Problem
from stack.scratch import scratch_database
from tests.integration.solving import NOW, empty, execute, hear, rows, solve, start, submit, write

pytestmark = pytest.mark.servers

LISTINGS: tuple[Callable[..., Page[Any]], ...] = (queries.list_steps, queries.list_decisions, queries.list_audit)


@pytest.fixture(scope="module")
def shared_database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


@pytest.fixture
def database(shared_database: Database) -> Database:
    empty(shared_database)
    return shared_database


def read(database: Database, problem_id: UUID) -> Problem:
    with database.session() as session:
        problem = queries.read_problem(session, DEFAULT_TENANT, problem_id)
    assert problem is not None
    return problem


def read_all(database: Database, list_: Callable[..., Page[Any]], problem_id: UUID) -> list[Any]:
    with database.session() as session:
        page = list_(session, problem_id, limit=100, cursor=None)
    assert page.next_cursor is None
    return list(page.items)


def test_a_solved_problem_has_its_result_its_counts_and_its_cost(database: Database) -> None:
    problem_id = submit(database, reference="42")
    solve(database, problem_id)
    problem = read(database, problem_id)
    assert (problem.status, problem.stop_reason) == ("succeeded", "final_answer")
    assert (problem.answer, problem.verdict) == ("42", "correct")
    assert (problem.step_count, problem.decision_count, problem.escalation_count, problem.epoch) == (3, 3, 1, 1)
    assert (problem.started_at, problem.finished_at) == (NOW, NOW + timedelta(seconds=4))
    assert {name: getattr(problem, name) for name in Ledger.__slots__} == {
        "small_kept": 10,
        "small_discarded": 5,
        "small_wasted": 0,
        "small_estimated": 0,
        "small_in": 18,
        "large_out": 5,
        "large_wasted": 0,
        "large_estimated": 0,
        "large_in": 6,
        "prm_tokens": 27,
        "prm_estimated": 0,
        "small_calls": 3,
        "large_calls": 1,
        "prm_calls": 3,
    }


def test_a_working_column_raises_instead_of_being_loaded(database: Database) -> None:
    problem_id = submit(database)
    with database.session() as session:
        problem = queries.read_problem(session, DEFAULT_TENANT, problem_id)
        for column in queries.HIDDEN:
            with pytest.raises(InvalidRequestError, match=column.key):
                getattr(problem, column.key)


def test_the_steps_are_those_of_the_trajectory(database: Database) -> None:
    problem_id = submit(database)
    solve(database, problem_id)
    found = read_all(database, queries.list_steps, problem_id)
    assert [(each.step, each.author, each.text, each.score) for each in found] == [
        (0, "small", "Six sevens are wanted.", 0.9),
        (1, "large", "That makes 42.", 0.5),
        (2, "small", "Hence \\boxed{42}", 0.75),
    ]


def test_a_decision_records_what_was_seen_what_was_chosen_and_what_chose(database: Database) -> None:
    problem_id = submit(database)
    solve(database, problem_id)
    found = read_all(database, queries.list_decisions, problem_id)
    assert [(each.number, each.step, each.action, each.reason, each.value, each.compared_with) for each in found] == [
        (0, 0, "accept", "score_at_least_threshold", 0.9, 0.5),
        (1, 1, "escalate", "score_below_threshold", 0.25, 0.5),
        (2, 2, "accept", "score_at_least_threshold", 0.75, 0.5),
    ]
    assert {(each.decided_by, each.policy, each.policy_revision) for each in found} == {("policy", "threshold", 2)}
    assert len({each.policy_digest for each in found}) == 1
    assert [each.epoch for each in found] == [0, 0, 1]
    [_, _, last] = found
    assert last.observation == {
        "step": 2,
        "score": 0.75,
        "previous_scores": [0.9, 0.5],
        "previous_authors": ["small", "large"],
        "previous_tokens": [5, 5],
        "following_scores": [],
        "draft_tokens": 5,
        "mean_logprob": None,
        "min_logprob": None,
        "thoughts": [],
        "is_final": True,
        "large_out": 5,
        "seed": 0,
        "question_digest": last.observation["question_digest"],
    }
    assert (last.draft_text, last.draft_finish, last.draft_tokens) == ("Hence \\boxed{42}", "separator", 5)
    assert (last.draft_prompt_tokens, last.draft_cached_tokens, last.draft_model) == (10, 4, "small-model")
    assert (last.prm_model, last.prm_worker, last.prm_tokens) == ("prm-model", "worker-2", 9)
    assert (last.draft_estimated_tokens, last.prm_estimated_tokens) == (0, 0)


def test_missing_scores_leave_the_others_at_their_steps(database: Database) -> None:
    problem_id = submit(database)
    command = start(database)[problem_id]
    for words, score in (("One.", 0.9), ("Two.", None)):
        [command] = hear(database, write(command, words, score=score))  # type: ignore[list-item]
    [command] = hear(database, write(command, "Two, written again."))  # type: ignore[list-item]
    hear(database, write(command, "Three.", score=0.75, prefix_score=None))
    found = read_all(database, queries.list_decisions, problem_id)
    assert [(each.reason, each.decided_by) for each in found] == [
        ("score_at_least_threshold", "policy"),
        ("invalid_score", "rule"),
        ("score_at_least_threshold", "policy"),
    ]
    assert [each.observation["score"] for each in found] == [0.9, None, 0.75]
    assert [each.observation["previous_scores"] for each in found] == [[], [0.9], [0.9, None]]


def test_the_audit_shows_each_decision_beside_the_step_at_its_index(database: Database) -> None:
    problem_id = submit(database)
    solve(database, problem_id)
    found = read_all(database, queries.list_audit, problem_id)
    assert {(each.problem_id, each.tenant_id, each.status) for each in found} == {
        (problem_id, DEFAULT_TENANT, "succeeded")
    }
    assert [(each.number, each.action, each.step_author, each.draft_text, each.step_text) for each in found] == [
        (0, "accept", "small", "Six sevens are wanted.", "Six sevens are wanted."),
        (1, "escalate", "large", "That makes 41.", "That makes 42."),
        (2, "accept", "small", "Hence \\boxed{42}", "Hence \\boxed{42}"),
    ]
    assert [(each.draft_score, each.step_score) for each in found] == [(0.9, 0.9), (0.25, 0.5), (0.75, 0.75)]
    assert [each.observation["score"] for each in found] == [0.9, 0.25, 0.75]
    assert [each.policy_parameters for each in found] == [{"threshold": 0.5}] * 3
    assert len(rows(database, "SELECT * FROM audit")) == 3


def test_a_step_that_was_decided_twice_is_shown_twice(database: Database) -> None:
    problem_id = submit(database)
    solve(database, problem_id)
    names = [each["column_name"] for each in rows(
        database, "SELECT column_name FROM information_schema.columns WHERE table_name = 'decisions'"
    )]  # fmt: skip
    copied = ", ".join("3" if name == "number" else name for name in names)
    execute(database, f"INSERT INTO decisions ({', '.join(names)}) SELECT {copied} FROM decisions WHERE step = 1")
    found = read_all(database, queries.list_audit, problem_id)
    assert [(each.number, each.step) for each in found] == [(0, 0), (1, 1), (2, 2), (3, 1)]
    assert found[3].step_text == found[1].step_text == "That makes 42."


@pytest.mark.parametrize("list_", LISTINGS)
def test_the_record_is_read_in_pages(database: Database, list_: Callable[..., Page[Any]]) -> None:
    problem_id = submit(database)
    solve(database, problem_id)
    with database.session() as session:
        first = list_(session, problem_id, limit=2, cursor=None)
        second = list_(session, problem_id, limit=2, cursor=first.next_cursor)
        whole = list_(session, problem_id, limit=3, cursor=None)
    assert [each.step for each in first.items] == [0, 1]
    assert [each.step for each in second.items] == [2]
    assert [each.step for each in whole.items] == [0, 1, 2]
    assert (second.next_cursor, whole.next_cursor) == (None, None)


@pytest.mark.parametrize("list_", LISTINGS)
def test_a_cursor_is_valid_only_for_its_listing(database: Database, list_: Callable[..., Page[Any]]) -> None:
    one, other = submit(database), submit(database)
    solve(database, one)
    with database.session() as session:
        cursors = [make_cursor("problems", str(one)), "nonsense"]
        cursors += [each(session, one, limit=1, cursor=None).next_cursor for each in LISTINGS if each is not list_]
        for cursor in cursors:
            with pytest.raises(BadCursor):
                list_(session, one, limit=1, cursor=cursor)
        own = list_(session, one, limit=1, cursor=None).next_cursor
        with pytest.raises(BadCursor):
            list_(session, other, limit=1, cursor=own)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decisions SET action = 'accept'",
        "UPDATE decisions SET draft_text = 'Another.'",
        "UPDATE decisions SET draft_text = NULL",
        "DELETE FROM decisions",
        "TRUNCATE decisions",
        "TRUNCATE problems CASCADE",
    ],
)
def test_decisions_are_append_only(database: Database, statement: str) -> None:
    problem_id = submit(database)
    solve(database, problem_id)
    before = rows(database, "SELECT * FROM decisions")
    with pytest.raises(Exception, match="append-only"), database.begin() as connection:
        connection.execute(text(statement))
    assert rows(database, "SELECT * FROM decisions") == before
