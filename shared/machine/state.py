"""The state of one problem, and the events that come from inside the orchestrator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.domain.absences import Absence
from shared.domain.decisions import DecisionRecord
from shared.domain.drafts import ScoredDraft
from shared.domain.ledger import Ledger
from shared.domain.options import Options, Plan
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Failure, Status, StopReason
from shared.domain.steps import Step
from shared.domain.text import extend_digest, prefix_digest, text_bytes
from shared.domain.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """The steps that a problem waits for: an author writes `max_steps` steps from `from_step` on."""

    author: Author
    from_step: int
    max_steps: int
    number: int
    """Place among the problem's requests, from 0, so that a repeated request gets new ids."""
    issued_at: datetime
    expires_at: datetime
    """A worker that takes the command later drops it: the problem is overdue by then and requests the steps again."""
    unscored_steps: int = 0
    """Number of large steps right before it that had no score when it was issued. Part of the request, so that its
    command stays the same when those scores arrive."""
    large_left: int | None = None
    """Large-model tokens that the problem could still use when a large step was requested; `None` is no limit."""
    failed_at_step: int | None = None
    """Step at which a worker reported a failure; the steps before it are on their way."""
    skips_prm: bool = False
    """Whether the drafts return without scores, because the PRM is away."""
    is_lost: bool = False
    """Whether a worker failed it through its own fault, so that it is requested again without counting an attempt."""
    worker_faults: int = 0
    """Number of times in a row that the step was lost so."""

    @property
    def end(self) -> int:
        """Index of the first step that does not come from this request."""
        return self.from_step + self.max_steps if self.failed_at_step is None else self.failed_at_step


def needed_roles(request: StepRequest | None, plan: Plan) -> frozenset[WorkerRole]:
    """Return the roles that have to work before a running problem goes on; without a request only scores are due."""
    author = set() if request is None else {WorkerRole(request.author)}
    is_scored = request is None or (request.author is Author.SMALL and not request.skips_prm)
    return frozenset(author | {WorkerRole.PRM}) if plan.scores and is_scored else frozenset(author)


def first_roles(plan: Plan) -> frozenset[WorkerRole]:
    """Return the roles that a problem with this plan needs as soon as it starts."""
    if not plan.drafts:
        return frozenset({WorkerRole.LARGE})
    return frozenset({WorkerRole.SMALL, WorkerRole.PRM} if plan.scores else {WorkerRole.SMALL})


def possible_roles(plan: Plan) -> frozenset[WorkerRole]:
    """Return all roles that a problem with this plan may come to need."""
    return first_roles(plan) | ({WorkerRole.LARGE} if plan.escalates else frozenset())


@dataclass(frozen=True, kw_only=True)
class State:
    """All that is known of one problem."""

    problem_id: UUID
    question: str
    reference: str | None = None
    """Right answer, if the submitter knows it."""
    options: Options = field(default_factory=Options)
    status: Status = Status.QUEUED
    epoch: int = 0
    """Rises with every escalation and every early end; results of an older epoch are never applied."""
    steps: tuple[Step, ...] = ()
    """The trajectory."""
    digest: str = ""
    """Digest of question and trajectory: the prefix that the next draft must name."""
    pending: tuple[ScoredDraft, ...] = ()
    """Drafts that have arrived but are not decided: unscored, or ahead of one that is."""
    decisions: tuple[DecisionRecord, ...] = ()
    """Decisions taken. The machine only appends, so a store may leave out those that it has written."""
    decision_count: int = 0
    escalation_count: int = 0
    request: StepRequest | None = None
    """The steps that a generator is to write; `None` once all of them have arrived."""
    request_count: int = 0
    oldest_request: int = 0
    """Number of the oldest request that still counts; older ones were abandoned as overdue."""
    attempts: int = 0
    """Number of times in a row that the same step had to be requested again."""
    due_at: datetime | None = None
    """When the problem counts as stuck if no event arrives; `None` if it waits for a role without a limit."""
    absences: tuple[Absence, ...] = ()
    """The roles that it knows to be away, in the order of their names."""
    ledger: Ledger = field(default_factory=Ledger)
    booked: frozenset[UUID] = frozenset()
    """Ids of drafts and events that the ledger includes. A store may leave out ids that cannot occur in the event at
    hand."""
    stop_reason: StopReason | None = None
    failure: Failure | None = None
    answer: str | None = None
    verdict: Verdict | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    def evolve(self, **changes: Any) -> State:
        """Return the state that differs in these fields.

        Does what `dataclasses.replace` does in a tenth of the time: every step takes a dozen of them.
        """
        assert changes.keys() <= self.__dict__.keys(), "a state has no such field"
        made = object.__new__(State)
        made.__dict__.update(self.__dict__, **changes)
        return made

    @property
    def tokens(self) -> int:
        """Tokens of the trajectory, counted or estimated."""
        return sum(step.length for step in self.steps)

    @property
    def is_escalating(self) -> bool:
        """Whether the large model is to write in place of drafts."""
        return self.options.plan.drafts and self.request is not None and self.request.author is Author.LARGE

    @property
    def waits_for(self) -> tuple[Absence, ...]:
        """The roles that it needs now and knows to be away."""
        if self.status is not Status.RUNNING or not self.absences:
            return ()
        needed = needed_roles(self.request, self.options.plan)
        return tuple(each for each in self.absences if each.role in needed)

    def bridges(self, role: WorkerRole) -> bool:
        """Tell whether it goes on without a role that is away."""
        return any(each.role is role and each.is_bridged for each in self.absences)

    @property
    def has_taken_over(self) -> bool:
        """Whether the large model writes the rest of the solution, after an escalation."""
        return self.options.plan.takes_over and self.escalation_count > 0

    @property
    def large_spent(self) -> int:
        """Large-model tokens that are booked so far, whether they became steps or not."""
        return self.ledger.large_out + self.ledger.large_wasted + self.ledger.large_estimated

    @property
    def large_left(self) -> int | None:
        """Large-model tokens that the problem may still use; `None` is no limit."""
        budget = self.options.plan.large_budget
        return None if budget is None else max(0, budget - self.large_spent)

    def can_pay_large(self, tokens: int | None = None) -> bool:
        """Tell whether the budget has room for this many more large-model tokens; by default for a mean step."""
        left = self.large_left
        if left is None:
            return True
        return left >= max(1, self.tokens // max(1, len(self.steps)) if tokens is None else tokens)

    def can_use_large(self, tokens: int | None = None) -> bool:
        """Tell whether the large model may write; it may not beyond the budget, nor while escalations are accepted."""
        return self.can_pay_large(tokens) and not self.bridges(WorkerRole.LARGE)

    @property
    def chain(self) -> tuple[ScoredDraft, ...]:
        """Pending drafts that continue the trajectory and each other without a gap."""
        chain: list[ScoredDraft] = []
        digest = self.digest
        known = {(each.draft.index, each.draft.prefix_digest): each for each in self.pending}
        while (found := known.get((len(self.steps) + len(chain), digest))) is not None:
            chain.append(found)
            digest = extend_digest(digest, found.draft.text)
        return tuple(chain)

    def text_bytes(self, *more: str) -> int:
        """Return the size of the question, the trajectory and further texts, as a message carries them."""
        return text_bytes(self.question, *(step.text for step in self.steps), *more)


def new_state(*, problem_id: UUID, question: str, options: Options, reference: str | None = None) -> State:
    """Return the state of a problem that was just submitted."""
    digest = prefix_digest(question, ())
    return State(problem_id=problem_id, question=question, reference=reference, options=options, digest=digest)


@dataclass(frozen=True, slots=True)
class ProblemAdmitted:
    """The orchestrator starts the problem."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The submitter cancels the problem."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The problem's deadline may have passed."""


@dataclass(frozen=True, slots=True)
class RequestOverdue:
    """The steps that the problem waits for may be overdue."""


@dataclass(frozen=True, slots=True)
class RolesAway:
    """The roles that are away, of all."""

    since: Mapping[WorkerRole, datetime]
    """Since when, by role; the others are there."""


ControlEvent = ProblemAdmitted | CancelRequested | DeadlinePassed | RequestOverdue | RolesAway
"""Events from inside the orchestrator; they are never on the bus."""
