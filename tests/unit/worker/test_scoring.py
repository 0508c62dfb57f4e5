"""What the PRM sees of the steps that it scores, and what the orchestrator gets of its cost."""

from __future__ import annotations

from dataclasses import replace

from shared.cancellation import Cancellation
from shared.domain.thoughts import as_thought
from shared.engines.port import Meter, Scores, ScoringRequest
from shared.messages import ScoreSteps, StepsScored
from tests.unit.worker.working import Scripted, carry_out, golden

SCORING = golden(ScoreSteps)


class Seeing(Scripted):
    """Remembers the steps that it was to score, and counts no tokens."""

    seen: tuple[str, ...] = ()

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        self.seen = request.steps
        return Scores(values=[0.5] * request.newest, tokens=0, estimated_tokens=7)


def test_the_prm_sees_thoughts_without_their_marks() -> None:
    thoughts = as_thought("Hm.", is_last=False), as_thought("So 2.", is_last=True)
    drafts = tuple(replace(draft, text=thoughts[1]) for draft in SCORING.drafts)
    prm = Seeing()
    [scored] = carry_out(SCORING.model_copy(update={"prefix": ("One.", thoughts[0]), "drafts": drafts}), prm)
    assert prm.seen == ("One.", "Hm.", *["So 2."] * len(drafts))
    assert isinstance(scored, StepsScored)
    assert scored.drafts == drafts, "the step itself keeps its mark"


def test_tokens_that_a_server_did_not_count_are_reported_as_an_estimate() -> None:
    [scored] = carry_out(SCORING, Seeing())
    assert isinstance(scored, StepsScored)
    assert (scored.scoring.tokens, scored.scoring.estimated_tokens) == (0, 7)
