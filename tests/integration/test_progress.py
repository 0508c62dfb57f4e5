"""What the record of a problem has gained since a place: in which order, and in how many parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from shared.domain.options import PolicyChoice
from shared.store.database import Database
from shared.store.progress import MOST_ROWS, Gained, Place, Sought, find_end, read_gained
from shared.store.tables import DEFAULT_TENANT, StepRow
from stack.scratch import scratch_database
from tests.integration.api.calls import add_decision, change
from tests.integration.solving import solve, submit

pytestmark = pytest.mark.servers


@dataclass(frozen=True)
class Kept:
    """A problem, and its record in order: `d` for decisions and `s` for steps, with the index of the step."""

    problem_id: UUID
    record: Sequence[str]


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


def keep(database: Database, decisions: Sequence[int], *, status: str = "succeeded") -> Kept:
    """Store a problem with as many steps as there are numbers: those of the decisions on each of them."""
    problem_id, number = submit(database), 0
    for step, count in enumerate(decisions):
        for _ in range(count):
            add_decision(database, str(problem_id), number=number, step=step)
            number += 1
        with database.session() as session:
            row = {
                "problem_id": problem_id, "step": step, "author": "small", "text": "A step.", "finish": "separator",
                "tokens": 4, "model": "m", "worker": "w", "waited_ms": 1, "worked_ms": 1,
                "accepted_at": datetime.now(UTC),
            }  # fmt: skip
            session.execute(insert(StepRow).values(row))
    counts = {"decision_count": number, "step_count": len(decisions)}
    change(database, str(problem_id), status=status, finished_at=datetime.now(UTC), **counts)
    record = [name for step, count in enumerate(decisions) for name in (*[f"d{step}"] * count, f"s{step}")]
    return Kept(problem_id, record)


def gain(database: Database, *sought: Sought) -> list[Gained | None]:
    with database.snapshot() as session:
        return read_gained(session, sought)


def names(gained: Gained) -> list[str]:
    return [("s" if isinstance(each, StepRow) else "d") + str(each.step) for each in gained.rows]


def after(record: Sequence[str]) -> Place:
    """Return the place after the beginning of a record."""
    return Place(sum(each[0] == "d" for each in record), sum(each[0] == "s" for each in record))


@pytest.mark.parametrize(
    "decisions",
    [
        [],
        [1, 2, 1],
        [1] * (MOST_ROWS - 1),
        [1] * MOST_ROWS,
        [1] * (2 * MOST_ROWS + 1),
        # More decisions on a step than a read returns, and steps without any, as records of older versions have.
        [2 * MOST_ROWS + 1, 0, 0, 1],
        [0] * (MOST_ROWS + 3),
        [MOST_ROWS - 1, 1, 1],
        [0] * (MOST_ROWS - 1) + [3, 2] + [1] * MOST_ROWS,
    ],
)
def test_a_record_is_read_in_order_from_any_place_in_it(database: Database, decisions: Sequence[int]) -> None:
    kept = keep(database, decisions)
    for begin in range(0, len(kept.record) + 1, 1 if len(kept.record) < 10 else 7):
        read, is_whole = list(kept.record[:begin]), False
        while not is_whole:
            [gained] = gain(database, Sought(kept.problem_id, after(read)))
            assert gained is not None
            assert gained.end == after(kept.record)
            assert gained.rows or gained.is_whole, "each read finds something until nothing is left"
            assert (gained.problem is not None) == gained.is_whole, "the end comes last"
            read += names(gained)
            is_whole = gained.is_whole
        assert read == kept.record


def test_clients_at_different_places_of_the_same_and_of_other_problems_are_served_together(database: Database) -> None:
    one, other = keep(database, [1, 1]), keep(database, [2], status="running")
    found = gain(
        database,
        Sought(one.problem_id, Place()),
        Sought(uuid4(), Place()),
        Sought(other.problem_id, Place(1, 0)),
        Sought(one.problem_id, Place(2, 1)),
        Sought(other.problem_id, Place(2, 1)),
    )
    assert [each and names(each) for each in found] == [["d0", "s0", "d1", "s1"], None, ["d0", "s0"], ["s1"], []]
    assert [bool(each and each.problem) for each in found] == [True, False, False, True, False]


def test_shadow_decisions_come_with_the_decisions_of_the_policy(database: Database) -> None:
    shadow = PolicyChoice(name="small-only", revision=1, parameters={})
    solve(database, plain := submit(database))
    solve(database, shadowed := submit(database, shadows=[shadow]))
    [without, whole, rest] = gain(
        database, Sought(plain, Place()), Sought(shadowed, Place()), Sought(shadowed, Place(2, 1))
    )
    assert without is not None
    assert whole is not None
    assert rest is not None
    assert [len(each.shadows) for each in (without, whole, rest)] == [0, 3, 1]
    assert [each.number for each in whole.shadows] == [0, 1, 2]


def test_a_read_sees_one_moment(database: Database) -> None:
    kept = keep(database, [1], status="running")
    with database.snapshot() as session:
        assert find_end(session, DEFAULT_TENANT, kept.problem_id) == Place(1, 1)
        change(database, str(kept.problem_id), status="succeeded", decision_count=2)
        [gained] = read_gained(session, [Sought(kept.problem_id, Place(1, 1))])
        assert gained == Gained(rows=[], shadows=(), is_whole=True, end=Place(1, 1), problem=None)
    with database.session() as session:
        assert find_end(session, DEFAULT_TENANT, kept.problem_id) == Place(2, 1)
        assert find_end(session, UUID(int=7), kept.problem_id) is None
