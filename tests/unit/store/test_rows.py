"""Reading rows that a newer version wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from shared.domain.drafts import Finish
from shared.domain.ledger import Ledger
from shared.domain.options import Options, PolicyChoice
from shared.domain.roles import Author
from shared.domain.status import Status
from shared.domain.steps import Step
from shared.machine.state import State, new_state
from shared.machine.transitions import give_up
from shared.store.rows import STEP_COLUMNS, options_values, problem_values, read_problem, step_values

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROBLEM_ID = UUID(int=7)
STEP = Step(
    index=0, author=Author.LARGE, text="A step.", finish=Finish.ENDED, tokens=4, model="m", worker="w", waited_ms=1.0,
    worked_ms=2.0, accepted_at=NOW,
)  # fmt: skip


def make_state() -> State:
    state = new_state(problem_id=PROBLEM_ID, question="What?", reference="42", options=Options())
    return state.evolve(
        status=Status.RUNNING, epoch=3, steps=(STEP,), decision_count=2, escalation_count=1, request_count=5,
        oldest_request=2, attempts=1, ledger=Ledger(small_kept=9), started_at=NOW,
    )  # fmt: skip


def make_row(**changes: Any) -> dict[str, Any]:
    """Make a problem's row, with plain strings as a driver returns them."""
    written = problem_values(make_state())
    submitted = {
        "id": PROBLEM_ID, "question": "What?", "reference": "42", "options": options_values(Options()),
        "deadline_at": None, "policy": "threshold", "policy_revision": 1, "policy_parameters": {"threshold": 0.5},
        "policy_version": None, "policy_wrappers": {}, "shadows": [], "cancel_requested_at": None, "created_at": NOW,
    }  # fmt: skip
    return {**written, **submitted, "status": "running", "pending": [], "absences": {}, **changes}


def make_step(**changes: Any) -> list[Any]:
    values = {**step_values(PROBLEM_ID, STEP), "author": "large", "finish": "ended", **changes}
    return [values[column] for column in STEP_COLUMNS]


@pytest.mark.parametrize(
    ("row", "step", "defect"),
    [
        ({"status": "parked"}, {}, "ValueError"),
        ({"options": {"lookahead": "far"}}, {}, "ValidationError"),
        ({"pending": [{}]}, {}, "ValidationError"),
        ({"request": {"author": "medium"}}, {}, "ValidationError"),
        ({"verdict": "doubtful"}, {}, "ValueError"),
        ({"policy_wrappers": {"budget": "large"}}, {}, "ValidationError"),
        ({"stop_reason": "boredom"}, {}, "ValueError"),
        ({}, {"author": "medium"}, "ValueError"),
        ({}, {"finish": "paused"}, "ValueError"),
    ],
)
def test_a_row_of_a_newer_version_keeps_what_is_needed_to_fail_the_problem(
    row: dict[str, Any], step: dict[str, Any], defect: str
) -> None:
    locked = read_problem(make_row(**row), [make_step(**step)], frozenset())
    assert locked.defect == defect
    assert locked.policy == PolicyChoice(name="threshold", revision=1, parameters={"threshold": 0.5})
    known = make_state()
    state = locked.state
    kept = ("problem_id", "question", "reference", "status", "epoch", "ledger", "started_at")
    kept += ("decision_count", "escalation_count", "request_count", "oldest_request", "attempts")
    assert {name: getattr(state, name) for name in kept} == {name: getattr(known, name) for name in kept}
    assert (state.options, state.pending, state.request) == (Options(), (), None)

    failed = problem_values(give_up(state, detail="It cannot be read.", now=NOW))
    assert (failed["status"], failed["epoch"], failed["step_count"]) == ("failed", 4, 1)


@pytest.mark.parametrize(
    ("written", "name", "defect"),
    [
        ({"name": "random", "revision": 2, "parameters": {"p": 1}, "wrappers": {}, "of_a_newer": 1}, "random", None),
        ({"name": "random", "revision": 2, "parameters": {}, "wrappers": {"epsilon": "much"}}, "random", "Validation"),
        ({"parameters": {}}, "None", "ValidationError"),
        ("random", "", "ValidationError"),
    ],
)
def test_a_shadow_of_a_newer_version_is_no_defect_of_its_problem(
    written: object, name: str, defect: str | None
) -> None:
    locked = read_problem(make_row(shadows=[written]), [make_step()], frozenset())
    assert locked.defect is None
    (shadow,) = locked.shadows
    assert (shadow.policy.name, shadow.policy.version) == (name, None)
    assert (shadow.defect or "").startswith(defect or "")
    assert (shadow.defect is None) == (defect is None)


def test_a_row_of_this_version_has_no_defect() -> None:
    locked = read_problem(make_row(), [make_step()], frozenset())
    assert locked.defect is None
    assert locked.state == make_state().evolve(digest=locked.state.digest)


def test_a_problem_that_has_ended_stays_as_it_is_when_its_row_is_unreadable() -> None:
    locked = read_problem(make_row(status="succeeded", pending=[{}]), [], frozenset())
    assert give_up(locked.state, detail="It cannot be read.", now=NOW) is locked.state
