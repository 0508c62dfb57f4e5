"""Scores steps with a process reward model in vLLM, and computes only what an earlier call has not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from vllm import PoolingParams, SamplingParams

from shared.cancellation import Cancellation
from shared.engines.port import BadScores, Meter, ModelUnusable, Scores, ScoringRequest, StepTimeout
from shared.engines.prm_formats import LIKELIEST, NextToken, Tagged, prm_id
from shared.engines.vllm.model import Model, OnModel
from shared.errors import TrimError

Answer = TypeVar("Answer")


class TaggedScorer(OnModel):
    """Scores with a token classifier, whose output at the tag of each step is the step's score."""

    def __init__(self, model: Model, prm_format: Tagged) -> None:
        """Take a model.

        Args:
            model: The model, with the runner `pooling`; the scorer closes it.
            prm_format: Format of its input and output.

        Raises:
            ModelUnusable: The model's tokenizer does not have the format's tag.
            BadScores: The model is not a process reward model of that format.
        """
        super().__init__(model)
        self._format = prm_format
        self._tag = model.encode(prm_format.tag)
        try:
            if len(self._tag) != 1:
                raise ModelUnusable(
                    f"The tokenizer of {model.name} has no token {prm_format.tag!r}; set TRIM_PRM_FORMAT to the format"
                    f" of the model, or {model.setting} to a process reward model."
                )
            ids = [*model.encode("1", is_beginning=True), *self._tag]
            model.run(self._score(ids, [len(ids) - 1], Meter()), Cancellation())
        except TrimError:
            model.close()
            raise

    @property
    def model_id(self) -> str:
        """Name of the model and its format."""
        return prm_id(super().model_id, self._format)

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps of a solution; see `Scorer.score`.

        Raises:
            BadScores: The model did not return one row per computed token.
            EngineFailed: The engine could not carry out the request.
        """
        if not request.steps:
            return Scores(values=(), tokens=0)
        # Each step is encoded by itself, so that the ids for more steps begin with the ids for fewer.
        ids = self._model.encode(self._format.head(self._model.plain(request.question)), is_beginning=True)
        tags = []
        for step in request.steps:
            ids += self._model.encode(self._format.plain(self._model.plain(step)))
            tags.append(len(ids))
            ids += self._tag
        self._model.refuse_past(self._model.max_tokens, ids)
        scored = partial(self._score, ids, tags[-request.newest :], meter)
        scores = self._model.run(_within(request.timeout_s, scored), cancellation)
        meter.clear()
        return scores

    async def _score(self, ids: list[int], wanted: list[int], meter: Meter) -> Scores:
        # Cached tokens have no rows. A repeated call lacks the row of a wanted token, and must compute all again.
        for reads_cache in (True, False):
            pooled = await self._model.pool(
                ids, PoolingParams(task="token_classify", skip_reading_prefix_cache=not reads_cache)
            )
            rows, computed = pooled.outputs.data, len(ids) - pooled.num_cached_tokens
            meter.tokens += computed
            if len(rows) != computed:
                raise BadScores(
                    f"{self._model.name} returned {len(rows)} rows for {computed} tokens; check that"
                    f" {self._model.setting} is a process reward model."
                )
            if (first := len(ids) - computed) <= wanted[0]:
                break
        values = [self._format.score(rows[place - first].tolist()) for place in wanted]
        return Scores(values=values, tokens=meter.tokens)


class NextTokenScorer(OnModel):
    """Scores with a language model whose next token would be its verdict on the newest step."""

    def __init__(self, model: Model, prm_format: NextToken) -> None:
        """Take a model.

        Args:
            model: The model, with the runner `generate`; the scorer closes it.
            prm_format: Format of its input and output.

        Raises:
            ModelUnusable: The model's vocabulary does not have the format's verdicts.
            BadScores: The model does not expect a verdict where the format has one.
        """
        if max(prm_format.good, prm_format.bad) >= model.vocabulary:
            model.close()
            raise ModelUnusable(
                f"The vocabulary of {model.name} has no verdicts of the format {prm_format.name}; set TRIM_PRM_FORMAT"
                f" to the format of the model, or {model.setting} to a process reward model."
            )
        super().__init__(model)
        self._format = prm_format
        self._sampling = SamplingParams(max_tokens=1, temperature=0, detokenize=False, logprobs=LIKELIEST)
        try:
            model.run(self._score([self._encode("1+1", ["1+1=2"])], Meter()), Cancellation())
        except TrimError:
            model.close()
            raise

    @property
    def model_id(self) -> str:
        """Name of the model and its format."""
        return prm_id(super().model_id, self._format)

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps of a solution; see `Scorer.score`.

        Raises:
            BadScores: The model does not expect a verdict next.
            EngineFailed: The engine could not carry out the request.
        """
        question, steps = self._model.plain(request.question), [self._model.plain(step) for step in request.steps]
        inputs = [
            self._encode(question, steps[:end])
            for end in range(max(1, len(steps) - request.newest + 1), len(steps) + 1)
        ]
        if inputs:
            self._model.refuse_past(self._model.max_tokens - 1, inputs[-1])
        scores = self._model.run(_within(request.timeout_s, partial(self._score, inputs, meter)), cancellation)
        meter.clear()
        return scores

    def _encode(self, question: str, steps: Sequence[str]) -> list[int]:
        return self._model.encode(self._format.prompt(question, steps), is_beginning=True)

    async def _score(self, inputs: list[list[int]], meter: Meter) -> Scores:
        values = []
        for ids in inputs:  # One after the other, because each finds the tokens of the one before it in the cache.
            async for output in self._model.generate(ids, self._sampling):
                meter.tokens += len(ids) - (output.num_cached_tokens or 0)  # The verdict itself is not computed on.
                (verdict,) = output.outputs
                logprobs = verdict.logprobs[0] if verdict.logprobs else {}
                values.append(self._format.score({token: each.logprob for token, each in logprobs.items()}))
        return Scores(values=values, tokens=meter.tokens)


async def _within(timeout_s: float, answer: Callable[[], Awaitable[Answer]]) -> Answer:
    try:
        async with asyncio.timeout(timeout_s):
            return await answer()
    except TimeoutError:
        raise StepTimeout.after(timeout_s) from None
