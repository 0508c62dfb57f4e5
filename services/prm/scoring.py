"""Carries out one `ScoreSteps`: asks the PRM, checks its answer, publishes the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import timedelta

from shared.domain.drafts import Scoring, UnfinishedWork
from shared.domain.roles import WorkerRole
from shared.domain.thoughts import without_mark
from shared.engines.port import Meter, Scorer, Scores, ScoringRequest, check_count
from shared.messages import ScoreSteps, StepsScored, derive_id
from shared.observe import metrics, spans
from shared.observe.tracing import TRACING
from shared.worker.execution import Context


class ScoringWork:
    """Scores the drafts of a command, and the accepted steps before them that have no score yet."""

    finished_steps = 0
    """All steps of a command are scored by one engine call, or none."""

    def __init__(self, command: ScoreSteps, context: Context, *, engine: Scorer) -> None:
        self._command = command
        self._context = context
        self._engine = engine
        self._meter = Meter()

    @property
    def unfinished(self) -> UnfinishedWork | None:
        """What the PRM computed for a call without a usable answer."""
        tokens, estimated_tokens = max(0, self._meter.tokens), max(0, self._meter.estimated_tokens)
        if not tokens and not estimated_tokens:
            return None
        return UnfinishedWork(role=WorkerRole.PRM, tokens=tokens, estimated_tokens=estimated_tokens, opens_call=True)

    def run(self) -> Iterator[None]:
        """Score and publish; yields once.

        A number that is no score (not finite, or outside [0, 1]) is published as missing: the orchestrator decides what
        follows from that.

        Raises:
            BadScores: The PRM gave more or fewer numbers than there are steps.
            Cancelled: The cancellation was set.
            TrimError: The engine raised it.
        """
        command, clock = self._command, self._context.clock
        waited_ms = max(0.0, (clock.now() - command.issued_at) / timedelta(milliseconds=1))
        metrics.STAGE_WAIT_SECONDS.labels(WorkerRole.PRM).observe(waited_ms / 1000)
        started = clock.monotonic()
        scores = self._score()
        scoring = Scoring(
            id=self._context.work_id,
            model=self._engine.model_id,
            worker=self._context.worker,
            tokens=scores.tokens,
            estimated_tokens=scores.estimated_tokens,
            waited_ms=waited_ms,
            worked_ms=(clock.monotonic() - started) * 1000,
        )
        values = [_usable(value) for value in scores.values]
        self._observe(values, scoring)
        scored = StepsScored(
            id=derive_id(self._context.work_id, "scored"),
            problem_id=command.problem_id,
            epoch=command.epoch,
            drafts=command.drafts,
            scores=tuple(values[command.unscored_steps :]),
            prefix_scores=tuple(values[: command.unscored_steps]),
            scoring=scoring,
        )
        self._context.results.publish(scored)
        yield

    def _observe(self, values: Sequence[float | None], scoring: Scoring) -> None:
        """Count the call, and report it to the problem's trace."""
        metrics.STAGE_WORK_SECONDS.labels(WorkerRole.PRM).observe(scoring.worked_ms / 1000)
        metrics.ENGINE_TOKENS.labels(WorkerRole.PRM, "scored").inc(scoring.tokens)
        if TRACING.covers(self._command.problem_id):
            TRACING.export(spans.scores(self._command, values, scoring, ended_at=self._context.clock.now()))

    def _score(self) -> Scores:
        command = self._command
        newest = command.unscored_steps + len(command.drafts)
        request = ScoringRequest(
            problem_id=command.problem_id,
            question=command.question,
            steps=tuple(map(without_mark, (*command.prefix, *(draft.text for draft in command.drafts)))),
            newest=newest,
            timeout_s=command.step_timeout_s,
        )
        scores = self._engine.score(request, self._context.cancellation, self._meter)
        self._meter.tokens, self._meter.estimated_tokens = scores.tokens, scores.estimated_tokens
        self._context.cancellation.raise_if_cancelled()
        check_count(scores, request)
        self._meter.clear()
        return scores


def _usable(value: float) -> float | None:
    return float(value) if math.isfinite(value) and 0 <= value <= 1 else None
