"""Booking what models cost: every draft once, as kept, discarded or wasted."""

from __future__ import annotations

from dataclasses import replace

from shared.domain.state import State
from shared.domain.values import Draft, Role, Scoring


def book(state: State, draft: Draft, *, kept: bool | None) -> State:
    """Book a draft: kept in the trajectory, replaced by a large step, or (`None`) wasted. Its input is paid anyway."""
    spent = {
        _output_column(draft.author, kept=kept): draft.tokens,
        f"{draft.author}_in": draft.prompt_tokens - draft.cached_tokens,
        f"{draft.author}_calls": int(draft.opens_call),
    }
    ledger = replace(state.ledger, **{name: getattr(state.ledger, name) + more for name, more in spent.items()})
    return state.evolve(ledger=ledger, booked=state.booked | {draft.id})


def _output_column(author: Role, *, kept: bool | None) -> str:
    """Name the field of the ledger that counts what a model decoded."""
    if author is Role.LARGE:
        return "large_out" if kept else "large_wasted"
    if kept is None:
        return "small_wasted"
    return "small_kept" if kept else "small_discarded"


def waste(state: State, drafts: tuple[Draft, ...]) -> State:
    """Book drafts that nobody uses, each once."""
    for draft in drafts:
        if draft.id not in state.booked:
            state = book(state, draft, kept=None)
    return state


def drop_pending(state: State) -> State:
    """Forget the drafts that were not decided, as wasted."""
    return waste(state.evolve(pending=()), tuple(each.draft for each in state.pending))


def book_scoring(state: State, scoring: Scoring) -> State:
    """Book one PRM call."""
    ledger = replace(state.ledger, prm=state.ledger.prm + scoring.tokens, prm_calls=state.ledger.prm_calls + 1)
    return state.evolve(ledger=ledger)
