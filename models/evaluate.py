"""Measures the bundled models on `sample.jsonl`: `python -m models.evaluate`.

Prints how many problems the small and the large model solve alone, greedily, and how well the least step score of
the process reward model tells the small model's right solutions from its wrong ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import uuid4

from shared.domain.text import boxed_answer
from shared.domain.values import Limits, Sampling, Verdict, verdict_of
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.port import Cancellation, GenerationRequest, ScoringRequest

HERE = Path(__file__).parent
TIMEOUT_S = 60.0
CONCURRENCY = 16


def solve(generator: EmbeddedGenerator, question: str) -> list[str]:
    """Write a whole solution greedily; return its steps."""
    limits = Limits()
    request = GenerationRequest(
        problem_id=uuid4(),
        question=question,
        prefix=(),
        max_steps=limits.max_steps,
        max_step_tokens=limits.max_step_tokens,
        max_tokens=limits.max_tokens,
        step_timeout_s=TIMEOUT_S,
        sampling=Sampling(temperature=0),
    )
    return [step.text for step in generator.stream(request, Cancellation())]


def least_score(scorer: EmbeddedScorer, question: str, steps: Sequence[str]) -> float:
    """Score all steps of a solution; return the least score."""
    request = ScoringRequest(
        problem_id=uuid4(), question=question, steps=tuple(steps), newest=len(steps), timeout_s=TIMEOUT_S
    )
    return min(scorer.score(request, Cancellation()).values)


def is_solved(steps: Sequence[str], reference: str) -> bool:
    """Tell whether the last step holds the right answer."""
    return bool(steps) and verdict_of(boxed_answer(steps[-1]), reference) is Verdict.CORRECT


def area_under_curve(above: Sequence[float], below: Sequence[float]) -> float:
    """Compute the chance that one of `above` is greater than one of `below`, a tie counting half."""
    return sum((a > b) + (a == b) / 2 for a in above for b in below) / (len(above) * len(below))


def main() -> None:
    """Measure and print."""
    problems = [json.loads(line) for line in (HERE / "sample.jsonl").read_text().splitlines()]
    questions = [problem["question"] for problem in problems]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        # The small model comes last: its solutions are then scored.
        for name in ("large", "small"):
            generator = EmbeddedGenerator(HERE / name)
            solutions = list(pool.map(partial(solve, generator), questions))
            generator.close()
            solved = [
                is_solved(steps, problem["reference"]) for steps, problem in zip(solutions, problems, strict=True)
            ]
            print(f"{name} alone: {sum(solved)} of {len(solved)} solved")
        scorer = EmbeddedScorer(HERE / "prm")
        scores = list(pool.map(partial(least_score, scorer), questions, solutions))
        scorer.close()
    right = [score for score, is_right in zip(scores, solved, strict=True) if is_right]
    wrong = [score for score, is_right in zip(scores, solved, strict=True) if not is_right]
    print(
        f"prm: least step score tells right from wrong solutions of small with AUC {area_under_curve(right, wrong):.3f}"
    )


if __name__ == "__main__":
    main()
