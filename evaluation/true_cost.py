"""What a problem costs when every model counts: the tokens that each computes, times the size of the model.

The paper counts the tokens that the large model decodes. Input costs as much computation per token as output, and the
small model and the PRM compute too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from shared.domain.decisions import Action
from shared.domain.drafts import Draft, Finish
from shared.domain.ledger import Ledger
from shared.domain.steps import Step
from shared.machine.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """Tokens that each model computed, output and input that no cache held; or what they cost."""

    small: float
    prm: float
    large: float

    @classmethod
    def of(cls, ledger: Ledger) -> Computed:
        """Add up what a problem's ledger has of each model; estimated counts are left out."""
        return cls(
            small=ledger.small_in + ledger.small_kept + ledger.small_discarded + ledger.small_wasted,
            prm=ledger.prm_tokens,
            large=ledger.large_in + ledger.large_out + ledger.large_wasted,
        )

    @property
    def total(self) -> float:
        """Sum over the models."""
        return self.small + self.prm + self.large


def mean_cost(computed: Sequence[Computed], prices: Computed) -> Computed:
    """Compute the mean cost of a problem by model.

    Args:
        computed: What the models computed for each problem.
        prices: Price of one token of each model. A model's number of parameters gives its computation.
    """
    return Computed(
        small=prices.small * fmean(each.small for each in computed),
        prm=prices.prm * fmean(each.prm for each in computed),
        large=prices.large * fmean(each.large for each in computed),
    )


Read = Callable[[str, tuple[str, ...]], Sequence[int]]
"""Encodes a question and the steps after it as a model reads them."""


def recounted(state: State, read: Read) -> State:
    """Return a problem whose ledger has the input that its own engines would have computed.

    Remembering engines report the input of the run that wrote a step first, and none for a known score. This count
    assumes that each engine caches the last sequence that it computed for a problem, that all models share a tokenizer,
    and that nothing was drafted ahead.

    Args:
        state: The problem, at its end.
        read: Encodes the models' input.
    """
    question_tokens = len(read(state.question, ()))
    if not state.options.plan.drafts:
        return state.evolve(ledger=replace(state.ledger, large_in=question_tokens))
    small_in = prm_tokens = large_in = 0
    # What each model has not computed of the question and the steps so far.
    small_unread = prm_unread = large_unread = question_tokens
    for record in state.decisions:
        draft = record.draft
        assert draft is not None, "a plan with drafts decides on drafts"
        if draft.opens_call:
            small_in += small_unread
        if record.scoring is not None:
            prm_tokens += prm_unread + _tagged(draft)
            prm_unread = 0
        # A model decodes the last token of its own step, and computes it when it continues.
        if record.decision.action is Action.ACCEPT:
            small_unread, large_unread = 1, large_unread + draft.tokens
        elif record.step < len(state.steps):
            step = state.steps[record.step]
            shared = _shared(read(state.question, (draft.text,)), read(state.question, (step.text,))) - question_tokens
            large_in += large_unread
            small_unread, large_unread = max(1, step.tokens - shared), 1
            prm_unread += _tagged(step) - (shared if record.scoring else 0)
    ledger = replace(state.ledger, small_in=small_in, prm_tokens=prm_tokens, large_in=large_in)
    return state.evolve(ledger=ledger)


def _shared(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Count the tokens with which both sequences begin."""
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def _tagged(step: Draft | Step) -> int:
    """Count a step's tokens as a PRM reads it: a tag follows its text, in place of the end of the solution."""
    return step.tokens + (step.finish is not Finish.ENDED)
