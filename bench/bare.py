"""The bare loop that the service on vLLM is compared with: three engines in one process, and nothing else.

    python -m bench.bare IN_FLIGHT

Each line of standard input is a JSON list of questions. For each line, the program prints one JSON object: the number
of steps, the answers, and the duration in seconds. It needs an environment with vLLM.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vllm import PoolingParams, SamplingParams
from vllm.config import PoolerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from bench.bare_loop import BareLoop
from bench.vllm_on_cpu import ARGUMENTS
from shared.domain.roles import Author
from shared.domain.text import SEPARATOR, STEP_TAG

MODELS = Path(__file__).resolve().parent.parent / "models"
MAX_STEPS, MAX_STEP_TOKENS = 16, 96

_WRITE = SamplingParams(
    temperature=0,
    max_tokens=MAX_STEP_TOKENS,
    stop=[SEPARATOR],
    include_stop_str_in_output=True,
    output_kind=RequestOutputKind.FINAL_ONLY,
)
_SCORE = PoolingParams(task="token_classify", skip_reading_prefix_cache=False)


@dataclass(frozen=True, slots=True)
class Written:
    """A step and its token ids."""

    text: str
    has_ended: bool
    ids: Sequence[int]
    """Ids that the model wrote."""
    judged_ids: Sequence[int]
    """Ids for the PRM, with the tag at which it scores."""


@dataclass(eq=False)
class Bare:
    """Three engines in one process."""

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

    async def write(self, author: Author, question: str, steps: Sequence[Written]) -> Written:
        """Write the step after a question and the steps so far."""
        ids = [*self._question_ids(question), *(token for step in steps for token in step.ids)]
        engine = self.small if author is Author.SMALL else self.large
        async for output in engine.generate(tokens_input(ids), _WRITE, str(next(self._names))):
            (written,) = output.outputs
        has_ended = written.finish_reason == "stop" and written.stop_reason != SEPARATOR
        tokenizer = self.prm.get_tokenizer()
        judged_ids = [*tokenizer.encode(written.text.strip()), tokenizer.convert_tokens_to_ids(STEP_TAG)]
        return Written(written.text, has_ended, written.token_ids, judged_ids)

    async def score(self, question: str, steps: Sequence[Written]) -> float:
        """Score the last of the steps."""
        ids = [*self._question_ids(question), *(token for step in steps for token in step.judged_ids)]
        async for output in self.prm.encode(tokens_input(ids), _SCORE, str(next(self._names))):
            score = float(output.outputs.data[-1][1])
        return score

    @lru_cache(maxsize=1024)  # noqa: B019 - one instance per process, never freed
    def _question_ids(self, question: str) -> Sequence[int]:
        ids: list[int] = self.prm.get_tokenizer().encode(f"Problem: {question}\n\n")
        return ids


def _engine(name: str, more: dict[str, Any]) -> AsyncLLM:
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(MODELS / name), enable_prefix_caching=True, disable_log_stats=True, **ARGUMENTS, **more
        )
    )


async def serve(in_flight: int) -> None:
    """Solve the questions of each line until standard input ends."""
    bare = Bare.start()
    bare_loop = BareLoop(write=bare.write, score=bare.score, max_steps=MAX_STEPS)
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            solved = await bare_loop.run(json.loads(line), in_flight=in_flight)
            print(json.dumps(asdict(solved)), flush=True)
    finally:
        for engine in (bare.small, bare.large, bare.prm):
            engine.shutdown()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
