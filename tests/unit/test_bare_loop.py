"""The bare loop that the service is measured against."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from bench.bare_loop import BareLoop, Run
from bench.scripted import STEPS, solve_bare
from shared.domain.roles import Author


@dataclass(frozen=True)
class Step:
    text: str
    has_ended: bool = False


def run(*scores: float, last: Step, max_steps: int = 3) -> Run:
    """Solve one problem whose drafts have these scores and whose last step is given."""
    given = iter(scores)

    async def write(author: Author, question: str, steps: Sequence[Step]) -> Step:
        return last if len(steps) == len(scores) - 1 else Step(f"{question} {author} {len(steps)}")

    async def score(question: str, steps: Sequence[Step]) -> float:
        seen.append([step.text for step in steps])
        return next(given)

    seen.clear()
    return asyncio.run(BareLoop(write=write, score=score, max_steps=max_steps).run(["q"], in_flight=1))


seen: list[list[str]] = []


def test_drafts_below_the_threshold_are_written_by_the_large_model() -> None:
    solved = run(0.5, 0.49, 0.9, last=Step("So \\boxed{7}"))
    assert (solved.steps, solved.answers) == (3, ["7"])
    assert seen[2] == ["q small 0", "q large 1", "So \\boxed{7}"]
    assert seen[1] == ["q small 0", "q small 1"]


@pytest.mark.parametrize(("last", "steps"), [(Step("The end.", has_ended=True), 2), (Step("Go on."), 3)])
def test_a_solution_ends_where_the_model_ends_it_or_at_its_limit(last: Step, steps: int) -> None:
    scores = [0.9] * 2 if last.has_ended else [0.9] * 3
    solved = run(*scores, last=last)
    assert (solved.steps, solved.answers) == (steps, [None])


def test_the_scripted_engine_is_driven_to_the_end_of_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*(f"Step {index}" for index in range(STEPS - 1)), "So \\boxed{7}"]
    script = {"default": [{"small": text, "score": 0.9} for text in texts]}
    monkeypatch.setattr("bench.scripted.SCRIPT", script)
    solved = solve_bare([{"question": "What?"}, {"question": "Who?"}])
    assert solved.steps == 2 * STEPS
