from __future__ import annotations

import pytest

from shared.domain.roles import Author
from training.traces import Trace


def make(steps: int, first_error: int | None = None, tokens: int | None = None) -> Trace:
    return Trace(
        question="What?",
        scores=(0.5,) * steps,
        tokens=(4,) * (steps if tokens is None else tokens),
        authors=(Author.SMALL,) * steps,
        first_error=first_error,
    )


def test_steps_are_judged_up_to_the_first_error() -> None:
    assert [make(4, first_error).judged for first_error in (None, 0, 2, 3)] == [4, 1, 3, 4]


@pytest.mark.parametrize(("steps", "first_error", "tokens"), [(0, None, 0), (3, None, 2), (3, 3, 3), (3, -1, 3)])
def test_a_trace_whose_parts_do_not_fit_is_refused(steps: int, first_error: int | None, tokens: int) -> None:
    with pytest.raises(ValueError, match=r"a trace has one score|cannot be the first error"):
        make(steps, first_error, tokens)
