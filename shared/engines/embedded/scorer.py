"""Scores steps with a process reward model on ONNX Runtime; waiting calls are computed together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.cancellation import Cancellation
from shared.domain.text import STEP_TAG
from shared.engines.embedded.engine import EmbeddedEngine, Member
from shared.engines.embedded.runtime import Floats
from shared.engines.port import Meter, ModelUnusable, Scores, ScoringRequest


@dataclass(kw_only=True, eq=False)
class _Scoring(Member[Scores]):
    """A call of `score`."""

    meter: Meter

    def on_first_run(self) -> None:
        """Count the tokens that are computed now."""
        self.meter.tokens = self.pending


class EmbeddedScorer(EmbeddedEngine[_Scoring]):
    """Scores steps with a process reward model."""

    architecture = "Qwen2ForProcessRewardModel"

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps of a solution; see `Scorer.score`."""
        ids = self.question_ids(request.question)
        tags = []
        for step in request.steps:
            ids += self.step_ids(step)
            tags.append(len(ids) - 1)
        if not tags:
            return Scores(values=(), tokens=0)
        self._model.refuse_past(self._model.max_tokens, ids)
        call = _Scoring(
            problem_id=request.problem_id,
            ids=ids,
            outputs_at=tags[-request.newest :],
            cancellation=cancellation,
            meter=meter,
        )
        with self._loop.submitted(call):
            scores = call.wait(request.timeout_s)
        meter.clear()
        return scores

    def step_ids(self, text: str) -> list[int]:
        """Encode a step with its tag, at which its score is computed."""
        return [*self._model.encode(text), self._tag]

    def _prepare(self, folder: Path, setting: str) -> None:
        tag: int | None = self._model.tokenizer.token_to_id(STEP_TAG)
        if tag is None:
            raise ModelUnusable(
                f"The tokenizer of the model in {folder} has no token {STEP_TAG}; restore it, or change {setting}."
            )
        self._tag = tag

    def _turn(self, arrived: list[_Scoring]) -> bool:
        """Score the calls that have waited for the longest time."""
        waiting = [call for call in self._waiting + arrived if not call.has_left()]
        joining, self._waiting = waiting[: self._max_batch], waiting[self._max_batch :]
        if not joining:
            return False  # All calls have left before their turn.
        self._on_run(len(joining) / self._max_batch)
        for call, logits in self._batch.join(joining):
            call.answer(Scores(values=_right(logits), tokens=len(call.ids) - call.cached))
            self._batch.leave(call)
        return bool(self._waiting)


def _right(logits: Floats) -> tuple[float, ...]:
    """Convert each pair of logits (step is wrong, step is right) to the probability that the step is right."""
    wrong_by = logits[:, 0].astype(np.float64) - logits[:, 1]
    return tuple((1 / (1 + np.exp(np.minimum(wrong_by, 700)))).tolist())
