"""Booking what models cost: every draft, scoring and piece of unfinished work once."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from shared.domain.drafts import Draft, Scoring, UnfinishedWork
from shared.domain.ledger import Ledger
from shared.domain.roles import Author, WorkerRole
from shared.machine.state import State


def book_kept(state: State, draft: Draft) -> State:
    """Book a draft whose step is in the trajectory."""
    return _book(state, draft, "large_out" if draft.author is Author.LARGE else "small_kept")


def book_discarded(state: State, draft: Draft) -> State:
    """Book a small model's draft that a decision escalated."""
    return _book(state, draft, "small_discarded")


def waste(state: State, drafts: tuple[Draft, ...]) -> State:
    """Book drafts that end up in no step and no decision, each once."""
    for draft in drafts:
        if draft.id not in state.booked:
            state = _book(state, draft, f"{draft.author}_wasted")
    return state


def drop_pending(state: State, *authors: Author) -> State:
    """Drop the drafts that are not decided, of all authors or of some, and book them as wasted."""
    dropped = tuple(each.draft for each in state.pending if not authors or each.draft.author in authors)
    return waste(state.evolve(pending=tuple(each for each in state.pending if each.draft not in dropped)), dropped)


def book_scoring(state: State, scoring: Scoring) -> State:
    """Book one PRM call."""
    return state.evolve(
        ledger=_add(state.ledger, prm_tokens=scoring.tokens, prm_estimated=scoring.estimated_tokens, prm_calls=1)
    )


def book_unfinished(state: State, work: UnfinishedWork) -> State:
    """Book work that was cancelled or failed; the caller takes care that it does so once."""
    calls = int(work.opens_call)
    match work.role:
        case WorkerRole.SMALL:
            ledger = _add(
                state.ledger,
                small_wasted=work.tokens,
                small_estimated=work.estimated_tokens,
                small_in=work.input_tokens,
                small_calls=calls,
            )
        case WorkerRole.LARGE:
            ledger = _add(
                state.ledger,
                large_wasted=work.tokens,
                large_estimated=work.estimated_tokens,
                large_in=work.input_tokens,
                large_calls=calls,
            )
        case WorkerRole.PRM:
            ledger = _add(state.ledger, prm_tokens=work.tokens, prm_estimated=work.estimated_tokens, prm_calls=calls)
        case _:
            assert_never(work.role)
    return state.evolve(ledger=ledger)


def _book(state: State, draft: Draft, column: str) -> State:
    """Book a draft's output under a column; estimates, input and call are paid whatever becomes of it."""
    spent = {
        column: draft.tokens,
        f"{draft.author}_estimated": draft.estimated_tokens,
        f"{draft.author}_in": draft.prompt_tokens - draft.cached_tokens,
        f"{draft.author}_calls": int(draft.opens_call),
    }
    return state.evolve(ledger=_add(state.ledger, **spent), booked=state.booked | {draft.id})


def _add(ledger: Ledger, **spent: int) -> Ledger:
    return replace(ledger, **{name: getattr(ledger, name) + more for name, more in spent.items() if more})
