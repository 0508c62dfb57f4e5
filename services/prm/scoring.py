"""Carries out one `ScoreSteps`: ask the PRM, check what it says, report it."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta

from shared.domain.values import Scoring
from shared.engines.port import BadScores, Cancellation, Scorer, ScoringRequest
from shared.messages import ScoreSteps, StepsScored, derive_id


def score(command: ScoreSteps, cancellation: Cancellation, *, engine: Scorer, worker: str) -> StepsScored:
    """Score the drafts of a command, and the accepted steps before them that have no score yet.

    A number that is no score (not finite, or outside [0, 1]) is reported as no score: what that means is decided
    where the drafts are.

    Raises:
        BadScores: The PRM gave more or fewer numbers than there are steps.
        Cancelled: The cancellation was set.
        TrimError: What the engine raised.
    """
    waited_ms = max(0.0, (datetime.now(UTC) - command.issued_at) / timedelta(milliseconds=1))
    started = time.monotonic()
    newest = command.unscored + len(command.drafts)
    scores = engine.score(
        ScoringRequest(
            problem_id=command.problem_id,
            question=command.question,
            steps=command.prefix + tuple(draft.text for draft in command.drafts),
            newest=newest,
            timeout_s=command.step_timeout_s,
        ),
        cancellation,
    )
    cancellation.raise_if_cancelled()
    if len(scores.values) != newest:
        raise BadScores(f"The PRM gave {len(scores.values)} scores for {newest} steps; check that a PRM is served.")
    values = [_usable(value) for value in scores.values]
    return StepsScored(
        id=derive_id(command.id, "scored"),
        problem_id=command.problem_id,
        epoch=command.epoch,
        drafts=command.drafts,
        scores=tuple(values[command.unscored :]),
        prefix_scores=tuple(values[: command.unscored]),
        scoring=Scoring(
            id=command.id,
            model=engine.model_id,
            worker=worker,
            tokens=scores.tokens,
            waited_ms=waited_ms,
            worked_ms=(time.monotonic() - started) * 1000,
        ),
    )


def _usable(value: float) -> float | None:
    return float(value) if math.isfinite(value) and 0 <= value <= 1 else None
