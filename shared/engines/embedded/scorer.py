"""Scores steps with a process reward model on ONNX Runtime: what waits is computed together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.domain.text import STEP_TAG
from shared.engines.embedded.batch import Batch, Row
from shared.engines.embedded.loop import Call, Loop
from shared.engines.embedded.runtime import Floats, Model
from shared.engines.port import Cancellation, ModelUnusable, Scores, ScoringRequest


@dataclass(kw_only=True, eq=False)
class _Judging(Row, Call[Scores]):
    """A call of `score`."""


class EmbeddedScorer:
    """Scores steps with a process reward model of the Qwen2 family from a folder that `models.export` has prepared."""

    def __init__(
        self,
        folder: Path,
        *,
        setting: str = "the folder",
        threads: int = 1,
        max_batch: int = 64,
        cache_tokens: int = 32_768,
    ) -> None:
        """Load the model and start the thread; arguments and errors as for `EmbeddedGenerator`."""
        self._model = Model(folder, setting=setting, architecture="Qwen2ForProcessRewardModel", threads=threads)
        tag: int | None = self._model.tokenizer.token_to_id(STEP_TAG)
        if tag is None:
            raise ModelUnusable(
                f"the tokenizer of the model in {folder} has no token {STEP_TAG}; restore it, or change {setting}"
            )
        self._tag = tag
        self._max_batch = max_batch
        self._batch: Batch[_Judging] = Batch(self._model, cache_tokens=cache_tokens)
        self._waiting: list[_Judging] = []
        self._loop: Loop[_Judging] = Loop(self._turn, name=self.model_id)

    @property
    def model_id(self) -> str:
        """Name of the model with the first digits of its weights' digest."""
        return self._model.model_id

    def score(self, request: ScoringRequest, cancellation: Cancellation) -> Scores:
        """Score the newest steps of a solution; see `Scorer.score`."""
        ids = self._model.encode_question(request.question)
        tags = []
        for step in request.steps:
            tags.append(len(ids) + len(step_ids := self._model.encode(step)))
            ids += [*step_ids, self._tag]
        if not tags:
            return Scores(values=(), tokens=0)
        self._model.refuse_past(self._model.max_tokens, ids)
        call = _Judging(
            problem_id=request.problem_id,
            ids=ids,
            outputs_at=tags[-request.newest :],
            cancellation=cancellation,
        )
        with self._loop.submitted(call):
            return call.wait(request.timeout_s)

    def check(self) -> None:
        """Raise `EngineDead` if the thread has broken down."""
        self._loop.check()

    def close(self) -> None:
        """Stop the thread; calls that still run raise `EngineStopped`."""
        self._loop.close()

    def _turn(self, arrived: list[_Judging]) -> bool:
        """Score the calls that have waited longest."""
        waiting = [call for call in self._waiting + arrived if not call.has_left()]
        joining, self._waiting = waiting[: self._max_batch], waiting[self._max_batch :]
        for call, logits in self._batch.join(joining):
            call.answer(Scores(values=_right(logits), tokens=len(call.ids) - call.cached))
            self._batch.leave(call)
        return bool(self._waiting)


def _right(logits: Floats) -> tuple[float, ...]:
    """Turn each pair of logits (step is wrong, step is right) into the probability that the step is right."""
    wrong_by = logits[:, 0].astype(np.float64) - logits[:, 1]
    return tuple((1 / (1 + np.exp(np.minimum(wrong_by, 700)))).tolist())
