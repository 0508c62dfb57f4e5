"""Checks every commit: the ledger is the sum of what was reported, times only grow, and no state waits for ever."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from shared.domain.decisions import Action
from shared.domain.drafts import Draft, Scoring, UnfinishedWork
from shared.domain.ledger import Ledger
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.domain.text import prefix_digest
from shared.machine.commands import next_commands
from shared.machine.state import State
from shared.messages import GenerateSteps, Message, StepsScored, WorkCancelled, WorkFailed, drafts_of
from shared.store.port import Change

_AUTHORS = frozenset(author.value for author in Author)

Item = Draft | Scoring | UnfinishedWork


def items_of(message: Message) -> dict[UUID, Item]:
    """Return what a message reports as used, by the id under which it is booked."""
    items: dict[UUID, Item] = {}
    if isinstance(message, StepsScored):
        items[message.id] = message.scoring
    elif isinstance(message, WorkFailed | WorkCancelled) and message.unfinished is not None:
        items[message.id] = message.unfinished
    return items | {draft.id: draft for draft in drafts_of(message)}


class Audit:
    """Follows the orchestrator's commits; each check raises `AssertionError` if it fails."""

    def __init__(self, *, repeats_texts: bool) -> None:
        """Start with nothing heard.

        Args:
            repeats_texts: Whether the same work always gives the same drafts.
        """
        self._repeats_texts = repeats_texts
        self._committed: list[Change] = []
        self._reported: dict[UUID, Item] = {}
        self._booked: set[UUID] = set()
        self._sums: dict[UUID, Counter[str]] = defaultdict(Counter)
        self._commands: dict[UUID, GenerateSteps] = {}
        self._recorded: dict[UUID, datetime] = {}
        """Latest time in the record of each problem."""

    def hear(self, event: Message) -> None:
        """Remember what an event reports that is about to be applied; of several copies, the first one is booked."""
        for identity, item in items_of(event).items():
            known = self._reported.setdefault(identity, item)
            if isinstance(known, Draft) and isinstance(item, Draft) and self._repeats_texts:
                assert _without_times(known) == _without_times(item), "an id names two drafts"

    def note(self, changes: Sequence[Change]) -> None:
        """Note what a transaction has committed, to check it afterwards."""
        self._committed += changes

    def check(self) -> None:
        """Check everything that was committed since the last time."""
        committed, self._committed = self._committed, []
        for change in committed:
            self._check_ledger(change)
            _check_wake_up(change.after)
            _check_end(change)
            self._check_times(change)
            self._check_commands(change.after)

    def _check_ledger(self, change: Change) -> None:
        state, booked = change.after, change.after.booked - change.locked.state.booked
        assert not booked & self._booked, "an id is booked twice"
        self._booked |= booked
        sums = self._sums[state.problem_id]
        for identity in booked & self._reported.keys():
            sums.update(_spent(self._reported[identity]))
        for record in state.decisions:
            if record.draft is not None and record.decision.action is Action.ESCALATE:
                sums["small_discarded"] += record.draft.tokens
        kept = {author: sum(step.tokens for step in state.steps if step.author is author) for author in Author}
        columns = {name: amount for name, amount in sums.items() if name not in _AUTHORS} | {
            "small_kept": kept[Author.SMALL],
            "small_wasted": sums["small"] - kept[Author.SMALL] - sums["small_discarded"],
            "large_out": kept[Author.LARGE],
            "large_wasted": sums["large"] - kept[Author.LARGE],
        }
        assert state.ledger == Ledger(**columns), "the ledger is not the sum of what was reported"

    def _check_times(self, change: Change) -> None:
        before, after = change.locked.state, change.after
        moments = [after.started_at] if before.started_at is None else []
        moments += sorted(
            [record.decided_at for record in after.decisions]
            + [step.accepted_at for step in after.steps[len(before.steps) :]]
        )
        moments += [after.finished_at] if before.finished_at is None else []
        for moment in moments:
            if moment is not None:
                last = self._recorded.setdefault(after.problem_id, moment)
                assert last <= moment, "a time lies before one that was recorded earlier"
                self._recorded[after.problem_id] = moment

    def _check_commands(self, state: State) -> None:
        lookahead = state.options.lookahead
        plan = state.options.plan
        is_drafting = state.request is not None and state.request.author is Author.SMALL
        if state.request is not None and is_drafting and lookahead is not None and not plan.decides_whole:
            assert state.request.end - len(state.steps) <= lookahead + 1, "the window is exceeded"
        if plan.large_budget is not None:
            assert state.ledger.large_out <= plan.large_budget, "the budget is exceeded"
        for command in next_commands(state):
            if isinstance(command, GenerateSteps):
                assert state.request is not None
                assert command.first_step == state.request.from_step, "a prefix has a gap"
                assert command == self._commands.setdefault(command.id, command), "an id names two commands"


def _check_wake_up(state: State) -> None:
    if state.status is Status.RUNNING:
        assert state.due_at is not None or state.waits_for, "nothing would ever wake the problem"
    else:
        left = state.request, state.due_at, state.pending, state.absences
        assert left == (None, None, (), ()), "an ended problem waits"


def _check_end(change: Change) -> None:
    before, after = change.locked.state, change.after
    if before.status.is_final:
        kept = before.evolve(ledger=after.ledger, booked=after.booked)
        assert after.evolve(decisions=()) == kept.evolve(decisions=()), "a problem changes after its end"
        assert not after.decisions, "a decision is taken after the end"
    deadline_at = after.options.deadline_at
    if after.status is Status.SUCCEEDED and deadline_at is not None:
        assert after.finished_at is not None
        assert after.finished_at < deadline_at, "a problem succeeds after its deadline"
    assert after.digest == prefix_digest(after.question, [step.text for step in after.steps]), "a step has a gap"


def _spent(item: Item) -> dict[str, int]:
    """Return what an item adds: to columns of the ledger, or to the exact tokens of an author."""
    if isinstance(item, Draft):
        return {
            item.author: item.tokens,
            f"{item.author}_estimated": item.estimated_tokens,
            f"{item.author}_in": item.prompt_tokens - item.cached_tokens,
            f"{item.author}_calls": int(item.opens_call),
        }
    if isinstance(item, Scoring):
        return {"prm_tokens": item.tokens, "prm_estimated": item.estimated_tokens, "prm_calls": 1}
    exact = "prm_tokens" if item.role is WorkerRole.PRM else item.role
    spent = {
        exact: item.tokens,
        f"{item.role}_estimated": item.estimated_tokens,
        f"{item.role}_calls": int(item.opens_call),
    }
    return spent if item.role is WorkerRole.PRM else spent | {f"{item.role}_in": item.input_tokens}


def _without_times(draft: Draft) -> Draft:
    return replace(draft, waited_ms=0, worked_ms=0)
