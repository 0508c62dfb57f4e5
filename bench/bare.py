"""The loop that the service on vLLM is measured against: three engines in one program, and nothing else.

    python -m bench.bare IN_FLIGHT

It takes tasks from standard input, a line of JSON each, with a list of questions, and answers with a line of JSON: how
many steps the solutions have, their answers, and the seconds that they took. It runs where vLLM is installed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm import PoolingParams, SamplingParams
from vllm.config import PoolerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from bench.vllm_on_cpu import ARGUMENTS
from shared.domain.text import SEPARATOR, boxed_answer

MODELS = Path(__file__).resolve().parent.parent / "models"
THRESHOLD = 0.5
MAX_STEPS, MAX_STEP_TOKENS = 16, 96

_WRITE = SamplingParams(
    temperature=0,
    max_tokens=MAX_STEP_TOKENS,
    stop=[SEPARATOR],
    include_stop_str_in_output=True,
    output_kind=RequestOutputKind.FINAL_ONLY,
)
_SCORE = PoolingParams(task="token_classify", skip_reading_prefix_cache=False)


@dataclass(slots=True)
class Bare:
    """Three engines, and the method's loop on them."""

    small: AsyncLLM
    large: AsyncLLM
    prm: AsyncLLM
    _names: Any = field(default_factory=itertools.count)

    @classmethod
    def start(cls) -> Bare:
        """Start the engines on the bundled models."""
        pooling: dict[str, Any] = {
            "runner": "pooling",
            "pooler_config": PoolerConfig(task="token_classify", tok_pooling_type="ALL"),
        }
        return cls(**{name: _engine(name, pooling if name == "prm" else {}) for name in ("small", "large", "prm")})

    async def solve(self, question: str) -> tuple[int, str | None]:
        """Solve a problem; return how many steps the solution has, and its answer."""
        tokenizer = self.prm.get_tokenizer()
        tag = tokenizer.convert_tokens_to_ids("<extra_0>")
        written = judged = tokenizer.encode(f"Problem: {question}\n\n")
        for count in range(1, MAX_STEPS + 1):
            step = await self._write(self.small, written)
            judged_ids = [*judged, *tokenizer.encode(step.text.strip()), tag]
            if await self._score(judged_ids) < THRESHOLD:
                step = await self._write(self.large, written)
                judged_ids = [*judged, *tokenizer.encode(step.text.strip()), tag]
            written, judged = [*written, *step.token_ids], judged_ids
            answer = boxed_answer(step.text)
            has_ended = step.finish_reason == "stop" and step.stop_reason != SEPARATOR
            if has_ended or answer is not None:
                return count, answer
        return MAX_STEPS, None

    async def _write(self, engine: AsyncLLM, ids: list[int]) -> CompletionOutput:
        async for output in engine.generate(tokens_input(ids), _WRITE, str(next(self._names))):
            (written,) = output.outputs
        return written

    async def _score(self, ids: list[int]) -> float:
        async for output in self.prm.encode(tokens_input(ids), _SCORE, str(next(self._names))):
            score = float(output.outputs.data[-1][1])
        return score


def _engine(name: str, more: dict[str, Any]) -> AsyncLLM:
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(MODELS / name), enable_prefix_caching=True, disable_log_stats=True, **ARGUMENTS, **more
        )
    )


async def clock(bare: Bare, questions: Sequence[str], in_flight: int) -> dict[str, object]:
    """Solve problems, so many at a time; return the steps, the answers and the seconds."""
    places = asyncio.Semaphore(in_flight)

    async def solve(question: str) -> tuple[int, str | None]:
        async with places:
            return await bare.solve(question)

    started = time.perf_counter()
    solutions = await asyncio.gather(*(solve(question) for question in questions))
    seconds = time.perf_counter() - started
    return {
        "steps": sum(steps for steps, _ in solutions),
        "answers": [answer for _, answer in solutions],
        "seconds": seconds,
    }


async def serve(in_flight: int) -> None:
    """Carry out tasks until standard input ends."""
    bare = Bare.start()
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await clock(bare, json.loads(line), in_flight)), flush=True)
    finally:
        for engine in (bare.small, bare.large, bare.prm):
            engine.shutdown()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
