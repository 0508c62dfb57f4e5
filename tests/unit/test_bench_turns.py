"""How the benchmark of the engines sums up its turns, and which turns it refuses to compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from bench.turns import NotSolved, Problem, Solved, compare, measure

PROBLEMS: Sequence[Problem] = [{"question": f"{index}?", "reference": "1"} for index in range(20)]


class Service:
    """A service that returns given results."""

    def __init__(self, *runs: Solved) -> None:
        self._runs: Iterator[Solved] = iter(runs)
        self.lookaheads: list[int] = []

    def solve(self, _problems: Sequence[Problem], *, lookahead: int) -> Solved:
        self.lookaheads.append(lookahead)
        return next(self._runs)


def run(seconds: float, *, steps: int = 100, correct: int = 20, wasted: float = 0.0) -> Solved:
    return Solved(steps=steps, seconds=seconds, correct=correct, wasted=wasted)


def test_shares_are_those_of_each_turn_and_their_medians() -> None:
    service = Service(*(run(seconds, wasted=0.1) for seconds in (2, 1, 4, 2, 5, 4)))
    bare = iter([run(1), run(1), run(2), run(1), run(1), run(1)])
    result = measure(lambda: PROBLEMS, "bare", bare=lambda _: next(bare), service=service, repeats=3, prefix="p_")
    assert service.lookaheads == [0, 4, 0, 4, 0, 4]
    assert result == {
        "bare": 100.0,
        "p_steps_per_s": 25.0,
        "p_share_of_bare": 0.5,
        "p_share_of_bare_range": [0.2, 0.5],
        "p_steps_per_s_lookahead4": 50.0,
        "p_share_of_bare_lookahead4": 0.5,
        "p_share_of_bare_lookahead4_range": [0.25, 1.0],
        "p_small_wasted_lookahead4": 0.1,
    }


@pytest.mark.parametrize("other", [run(1, steps=90), run(1, steps=110), run(1, correct=18)])
def test_different_work_is_not_compared(other: Solved) -> None:
    for theirs, ours in ((run(1), other), (other, run(1))):
        with pytest.raises(NotSolved, match="cannot be compared"):
            compare(PROBLEMS, bare=lambda _, theirs=theirs: theirs, service=Service(ours), lookahead=0)  # type: ignore[misc]
