"""Labels the steps of solutions of bundled problems, whose right steps are known."""

from __future__ import annotations

from collections.abc import Iterator

from evaluation.offline import TIMEOUT_S, Models
from recipe.problems.checker import first_error
from recipe.problems.story import parse
from shared.cancellation import Cancellation
from shared.domain.decisions import Action
from shared.engines.port import Meter, ScoringRequest
from shared.machine.state import State
from training.traces import Rewrite, Trace


def trace_of(models: Models, state: State) -> Trace | None:
    """Label the steps of a solution; `None` if it has no step or a step without a usable score."""
    texts = tuple(step.text for step in state.steps)
    scores = [step.score for step in state.steps]
    if scores and scores[-1] is None and models.prm is not None:
        # The service has large steps scored with the draft after them, and after the last step there is none.
        request = ScoringRequest(
            problem_id=state.problem_id, question=state.question, steps=texts, newest=1, timeout_s=TIMEOUT_S
        )
        [scores[-1]] = models.prm.score(request, Cancellation(), Meter()).values
    known = [score for score in scores if score is not None]
    if not texts or len(known) < len(texts):
        return None
    right = first_error(parse(state.question).steps, texts)
    return Trace(
        question=state.question,
        scores=tuple(known),
        tokens=tuple(step.tokens for step in state.steps),
        authors=tuple(step.author for step in state.steps),
        first_error=right if right < len(texts) else None,
    )


def rewrites_of(state: State) -> Iterator[Rewrite]:
    """Yield the large steps in place of drafts."""
    expected = parse(state.question).steps
    texts = tuple(step.text for step in state.steps)
    right = first_error(expected, texts)
    for record in state.decisions:
        if record.draft is None or record.decision.action is not Action.ESCALATE or record.step >= len(texts):
            continue
        is_wrong = record.step >= len(expected) or record.draft.text != expected[record.step]
        yield Rewrite(
            draft_tokens=record.draft.tokens,
            tokens=state.steps[record.step].tokens,
            is_right=record.step < right if record.step <= right and is_wrong else None,
        )
