"""Scripted steps of the duration that a GPU needs, and the bare loop on them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

from bench.bare_loop import BareLoop, Run
from bench.turns import Problem, Solved
from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.domain.roles import Author
from shared.engines.port import GenerationRequest, Meter, ScoringRequest
from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer

STEPS = 8
STEP_TOKENS, TOKEN_MS = 60, 10.0
"""A step on a GPU."""

IN_FLIGHT = 64
PROBLEMS: Sequence[Problem] = [{"question": f"What is problem {index}?"} for index in range(320)]

_WORDS = " ".join(["word"] * (STEP_TOKENS - 2))  # the engine counts the separator too
_STEP = {"score": 0.9, "small_ms": STEP_TOKENS * TOKEN_MS, "large_ms": STEP_TOKENS * TOKEN_MS, "prm_ms": TOKEN_MS}
SCRIPT = {
    "default": [{"small": f"{index} {_WORDS}", **_STEP} for index in range(STEPS - 1)]
    + [{"small": f"Answer: {_WORDS} \\boxed{{7}}", **_STEP}]
}


@dataclass(frozen=True, slots=True)
class ScriptedStep:
    """A step of the scripted engine."""

    text: str
    has_ended: bool


def solve_bare(problems: Sequence[Problem]) -> Solved:
    """Solve problems with the scripted engine in a bare loop."""
    script = Script.model_validate(SCRIPT)
    writers = {author: ScriptedGenerator(script, author) for author in Author}
    prm, problem_id = ScriptedScorer(script), uuid4()

    def write(author: Author, question: str, steps: Sequence[ScriptedStep]) -> ScriptedStep:
        request = GenerationRequest(
            problem_id=problem_id,
            question=question,
            prefix=tuple(step.text for step in steps),
            max_steps=1,
            max_step_tokens=STEP_TOKENS + 1,
            max_tokens=4096,
            step_timeout_s=60,
            sampling=Sampling(),
        )
        (step,) = writers[author].stream(request, Cancellation(), Meter())
        return ScriptedStep(step.text, has_ended=step.finish is Finish.ENDED)

    def score(question: str, steps: Sequence[ScriptedStep]) -> float:
        texts = tuple(step.text for step in steps)
        request = ScoringRequest(problem_id=problem_id, question=question, steps=texts, newest=1, timeout_s=60)
        return prm.score(request, Cancellation(), Meter()).values[0]

    async def solve() -> Run:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(IN_FLIGHT))
        bare_loop = BareLoop[ScriptedStep](
            write=lambda author, question, steps: asyncio.to_thread(write, author, question, steps),
            score=lambda question, steps: asyncio.to_thread(score, question, steps),
            max_steps=STEPS,
        )
        return await bare_loop.run([problem["question"] for problem in problems], in_flight=IN_FLIGHT)

    measured = asyncio.run(solve())
    return Solved(steps=measured.steps, seconds=measured.seconds, correct=0)
