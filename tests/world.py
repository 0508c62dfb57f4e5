"""A simulated world for the state machine: models as pure functions, a bus, workers, a store and an orchestrator.

Nothing here reads a clock or draws a number: time is `Simulation.now`, and every choice is the caller's. A test
disturbs the world by choosing what is delivered, when, how often, and who crashes meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from shared.domain.decisions import Decide
from shared.domain.drafts import Draft, Finish, Scoring
from shared.domain.ledger import Ledger
from shared.domain.options import Limits, Options, Sampling
from shared.domain.roles import Author
from shared.domain.status import Status
from shared.domain.text import prefix_digest
from shared.machine.booking import book, book_scoring
from shared.machine.commands import next_commands
from shared.machine.state import ControlEvent, ProblemAdmitted, RequestOverdue, State, new_state
from shared.machine.transitions import apply
from shared.messages import (
    CancelWork,
    GenerateSteps,
    ProblemEvent,
    ScoreSteps,
    StepsGenerated,
    StepsScored,
    WorkFailed,
    decode,
    derive_id,
    encode,
)
from shared.policies.policy import Policy

START = datetime(2026, 1, 1, tzinfo=UTC)
PROBLEM_ID = UUID("00000000-0000-4000-8000-000000000001")
QUESTION = "What is 6 times 7?"

BusMessage = GenerateSteps | ScoreSteps | CancelWork | StepsGenerated | StepsScored | WorkFailed


@dataclass(frozen=True, kw_only=True)
class World:
    """The models of one world: what they write and score depends on question and prefix alone."""

    seed: int = 0
    ends: float = 0.06
    """Share of steps with which the model ends by itself."""
    boxes: float = 0.06
    """Share of steps with a boxed answer."""
    says_nothing: float = 0.06
    """Share of degenerate steps; a third of them end the text."""
    runs_long: float = 0.06
    """Share of steps cut at the limit of tokens for one step."""
    scores_badly: float = 0.06
    """Share of steps for which the PRM gives no usable number."""

    def number(self, *parts: object) -> float:
        """Draw a number in [0, 1) that depends on the seed and the parts alone."""
        digest = hashlib.blake2b("\x1f".join(map(str, (self.seed, *parts))).encode(), digest_size=6).digest()
        return int.from_bytes(digest) / 2**48

    def write(self, role: Author, question: str, prefix: Sequence[str], *, salt: int = 0) -> tuple[str, Finish, int]:
        """Write the step after a prefix: text, finish, tokens. Another salt gives another text of the same length."""
        key = (role, question, *prefix)
        tokens = 1 + int(self.number("tokens", *key) * 20)
        word = int(self.number("word", salt, *key) * 10**6)
        lot = self.number("kind", salt, *key)
        if (lot := lot - self.says_nothing) < 0:
            return "...", Finish.ENDED if -lot < self.says_nothing / 3 else Finish.SEPARATOR, tokens
        if (lot := lot - self.ends) < 0:
            return f"So it is {word}", Finish.ENDED, tokens
        if (lot := lot - self.boxes) < 0:
            return f"Hence \\boxed{{{word}}}", Finish.SEPARATOR, tokens
        if (lot := lot - self.runs_long) < 0:
            return f"And on and on {word}", Finish.LENGTH, tokens
        return f"Step {len(prefix)} by {role}: {word}", Finish.SEPARATOR, tokens

    def score(self, question: str, steps: Sequence[str]) -> float | None:
        """Score the last of some steps, on a coarse scale so that scores often equal a threshold."""
        if self.number("bad", question, *steps) < self.scores_badly:
            return None
        return int(self.number("score", question, *steps) * 9) / 8


def make_draft(
    *,
    command_id: UUID,
    author: Author,
    index: int,
    after: str,
    text: str,
    finish: Finish = Finish.SEPARATOR,
    tokens: int = 5,
    opens_call: bool = True,
    prompt_tokens: int = 0,
    cached_tokens: int = 0,
) -> Draft:
    """Make a draft as a worker would for a command."""
    return Draft(
        id=derive_id(command_id, index),
        author=author,
        index=index,
        after=after,
        text=text,
        finish=finish,
        tokens=tokens,
        opens_call=opens_call,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        model=f"{author}-model",
        worker="worker-1",
        waited_ms=1.0,
        worked_ms=2.0,
    )


@dataclass
class Stretch:
    """A generate command that a worker is carrying out."""

    command: GenerateSteps
    drafts: list[Draft] = field(default_factory=list)
    sent: int = 0
    """How many of the drafts went out."""


@dataclass
class Simulation:
    """One problem in one world, with all that is on the bus."""

    world: World
    policy: Policy
    options: Options
    now: datetime = START
    bus: list[tuple[BusMessage, bool]] = field(default_factory=list)
    """Messages under way, oldest first, each with whether the broker delivers it again."""
    stretches: list[Stretch] = field(default_factory=list)
    history: list[BusMessage] = field(default_factory=list)
    """Everything that was ever published."""
    wanted_from: int = 0
    """The newest epoch that the workers heard of."""
    is_salted: bool = False
    """Whether a worker writes another text each time, as sampling does."""
    inbox: set[UUID] = field(default_factory=set)
    produced: dict[UUID, Draft] = field(default_factory=dict)
    scorings: dict[UUID, Scoring] = field(default_factory=dict)
    commands: dict[UUID, GenerateSteps] = field(default_factory=dict)
    runs: int = 0
    state: State = field(init=False)
    """As committed: without `booked`, which is the inbox."""

    def __post_init__(self) -> None:
        """Submit and admit the problem."""
        self.state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=self.options)
        self.control(ProblemAdmitted())

    @property
    def decide(self) -> Decide:
        """The problem's policy."""
        return self.policy.decide

    # --- the orchestrator -------------------------------------------------------------------------------------------

    def control(self, event: ControlEvent) -> None:
        """Apply an event from inside the orchestrator and publish what it makes necessary."""
        self._publish_fresh(self.state, self._commit(event, frozenset()))

    def hear(self, event: ProblemEvent, *, is_redelivery: bool = False, crashes: bool = False) -> None:
        """Apply an event from the bus: commit, then publish, unless the orchestrator crashes in between."""
        ids = {event.id, *(draft.id for draft in event.drafts)}
        old = self.state
        new = self._commit(event, frozenset(ids & self.inbox))
        if crashes:
            self.bus.append((event, True))
        elif is_redelivery:
            for command in next_commands(new):
                self._publish(command)
        else:
            self._publish_fresh(old, new)

    def _commit(self, event: ProblemEvent | ControlEvent, booked: frozenset[UUID]) -> State:
        old = replace(self.state, booked=booked)
        new = apply(old, event, decide=self.decide, now=self.now)
        added = new.booked - booked
        assert not added & self.inbox, "an id is booked twice"
        self.inbox |= added
        self.state = replace(new, booked=frozenset())
        self._check()
        return self.state

    def _publish_fresh(self, old: State, new: State) -> None:
        known = next_commands(old)
        for command in next_commands(new):
            if command not in known:
                self._publish(command)

    def _publish(self, message: BusMessage) -> None:
        decoded = decode(encode(message))
        assert decoded == message, "a message changes on its way"
        self.bus.append((message, False))
        self.history.append(message)

    def _check(self) -> None:
        """Assert what holds of every committed state."""
        state = self.state
        assert self.audit() == state.ledger, "the ledger is not the sum of what is booked"
        if state.status is Status.RUNNING:
            assert state.due_at is not None, "nothing would ever wake the problem"
        else:
            assert (state.request, state.due_at, state.pending) == (None, None, ()), "an ended problem waits"
        if state.request is not None and state.options.lookahead is not None and state.options.plan.drafts:
            assert state.request.end - len(state.steps) <= state.options.lookahead + 1, "the window is exceeded"
        for command in next_commands(state):
            if isinstance(command, GenerateSteps):
                assert state.request is not None
                assert command.first_step == state.request.from_step, "a prefix has a gap"
                first = self.commands.setdefault(command.id, command)
                assert command == first, "an id names two commands"

    def audit(self) -> Ledger:
        """Sum up what the models reported under the ids in the inbox; how it splits is read from the problem."""
        blank = State(problem_id=PROBLEM_ID, question=QUESTION)
        for identity, scoring in self.scorings.items():
            if identity in self.inbox:
                blank = book_scoring(blank, scoring)
        ours = self.state.ledger
        for identity, draft in self.produced.items():
            if identity in self.inbox:
                blank = book(blank, draft, kept=None)
        spent = blank.ledger
        assert ours.small_kept + ours.small_discarded + ours.small_wasted == spent.small_wasted
        assert ours.large_out + ours.large_wasted == spent.large_wasted
        return replace(
            spent,
            small_kept=ours.small_kept,
            small_discarded=ours.small_discarded,
            small_wasted=ours.small_wasted,
            large_out=ours.large_out,
            large_wasted=ours.large_wasted,
        )

    # --- the bus ----------------------------------------------------------------------------------------------------

    def deliver(self, place: int, *, crashes: bool = False) -> None:
        """Deliver one of the messages under way to whom it is for."""
        message, is_redelivery = self.bus.pop(place)
        match message:
            case GenerateSteps():
                if self._is_wanted(message):
                    self.stretches.append(Stretch(message))
            case ScoreSteps():
                if self._is_wanted(message):
                    self._score(message)
                else:
                    self._report_fault(message, retryable=True)
            case CancelWork():
                self.wanted_from = max(self.wanted_from, message.epoch)
                self.stretches = [each for each in self.stretches if each.command.epoch >= self.wanted_from]
            case _:
                self.hear(message, is_redelivery=is_redelivery, crashes=crashes)

    def fail(self, place: int) -> None:
        """Have a worker report a passing fault in place of carrying out a command."""
        command, _ = self.bus.pop(place)
        assert isinstance(command, GenerateSteps | ScoreSteps)
        self._report_fault(command, retryable=True)

    def fail_copies(self) -> None:
        """Have second copies of all commands that were answered fail, with a fault that no retry mends."""
        ask = self.state.request
        for command in list(self.history):
            if isinstance(command, ScoreSteps):
                is_answered = command.first_step < len(self.state.steps)
            elif isinstance(command, GenerateSteps):
                is_answered = command.first_step < len(self.state.steps) and (
                    not ask or command.request_number < ask.request_number
                )
            else:
                continue
            if is_answered:
                self._report_fault(command, retryable=False)

    def break_off(self, place: int) -> None:
        """Have a generator fail in the middle of a stretch, after it has sent what it has."""
        stretch = self.stretches.pop(place)
        if stretch.drafts[stretch.sent :]:
            self._send_on(stretch)
        self._report_fault(stretch.command, retryable=True, written=len(stretch.drafts))

    def _report_fault(self, command: GenerateSteps | ScoreSteps, *, retryable: bool, written: int = 0) -> None:
        self._publish(
            WorkFailed(
                problem_id=command.problem_id,
                epoch=command.epoch,
                id=derive_id(command.id, "failed", retryable, written),
                role="prm" if isinstance(command, ScoreSteps) else command.role.value,
                step=command.first_step + written,
                request_number=command.request_number,
                code="engine_busy",
                detail="The engine was busy.",
                retryable=retryable,
                worker="worker-1",
                drafts=command.drafts if isinstance(command, ScoreSteps) else (),
            )
        )

    # --- the workers ------------------------------------------------------------------------------------------------

    def work(self, place: int, *, holds: bool = False) -> None:
        """Have a generator finish one more step of a stretch; it may hold a step back and send it with the next."""
        stretch = self.stretches[place]
        command = stretch.command
        self.runs += self.is_salted
        prefix = (*command.prefix, *(draft.text for draft in stretch.drafts))
        text, finish, tokens = self.world.write(command.role, command.question, prefix, salt=self.runs)
        if self.is_salted:  # what an id costs must not depend on which of its texts is heard
            tokens = 3 + len(prefix) % 5
        draft = make_draft(
            command_id=command.id,
            author=command.role,
            index=len(prefix),
            after=prefix_digest(command.question, prefix),
            text=text,
            finish=finish,
            tokens=tokens,
            opens_call=not stretch.drafts,
            prompt_tokens=0 if stretch.drafts else 10 + 7 * len(prefix),
            cached_tokens=0 if stretch.drafts else 4 * len(prefix),
        )
        if not self.is_salted:
            assert self.produced.get(draft.id, draft) == draft, "an id names two drafts"
        self.produced[draft.id] = draft
        stretch.drafts.append(draft)
        written = sum(each.tokens for each in stretch.drafts)
        is_complete = len(stretch.drafts) >= command.max_steps or written >= command.max_tokens
        is_complete = is_complete or draft.ends_solution or draft.is_degenerate
        if is_complete or not holds:
            self._send_on(stretch)
        if is_complete:
            del self.stretches[place]
            if command.reports_stretch:
                self._report(command, "announced", tuple(stretch.drafts))

    def crash_worker(self, place: int) -> None:
        """Crash a generator: the broker delivers the command again, and the work starts anew."""
        self.bus.append((self.stretches.pop(place).command, True))

    def _send_on(self, stretch: Stretch) -> None:
        """Send what was not sent. How many go together is chance, so the id of a message names the last one too."""
        command, first = stretch.command, stretch.sent
        drafts = tuple(stretch.drafts[first:])
        stretch.sent = len(stretch.drafts)
        silent = tuple(draft for draft in drafts if draft.is_degenerate)
        spoken = tuple(draft for draft in drafts if not draft.is_degenerate)
        if command.results_to == "events":
            self._report(command, "generated", drafts)
            return
        if spoken:
            self._publish(
                ScoreSteps(
                    id=derive_id(command.id, "score_steps", spoken[0].index, spoken[-1].index),
                    problem_id=command.problem_id,
                    epoch=command.epoch,
                    issued_at=self.now,
                    expires_at=self.now + timedelta(seconds=command.step_timeout_s),
                    request_number=command.request_number,
                    step_timeout_s=command.step_timeout_s,
                    question=command.question,
                    prefix=(*command.prefix, *(each.text for each in stretch.drafts[:first])),
                    unscored_steps=command.unscored_steps if first == 0 else 0,
                    drafts=spoken,
                )
            )
        if silent:
            self._report(command, "generated", silent)

    def _report(self, command: GenerateSteps, what: str, drafts: tuple[Draft, ...]) -> None:
        self._publish(
            StepsGenerated(
                problem_id=command.problem_id,
                epoch=command.epoch,
                id=derive_id(command.id, what, drafts[0].index, drafts[-1].index),
                drafts=drafts,
            )
        )

    def _score(self, command: ScoreSteps) -> None:
        texts = (*command.prefix, *(draft.text for draft in command.drafts))
        first = len(command.prefix)
        scores = [self.world.score(command.question, texts[: place + 1]) for place in range(len(texts))]
        scored = StepsScored(
            problem_id=command.problem_id,
            epoch=command.epoch,
            id=derive_id(command.id, "scored"),
            drafts=command.drafts,
            scores=tuple(scores[first:]),
            prefix_scores=tuple(scores[first - command.unscored_steps : first]),
            scoring=Scoring(
                id=derive_id(command.id, "scoring"),
                model="prm-model",
                worker="worker-2",
                tokens=3 * len(texts),
                waited_ms=1.0,
                worked_ms=2.0,
            ),
        )
        self.scorings[scored.id] = scored.scoring
        self._publish(scored)

    def _is_wanted(self, command: GenerateSteps | ScoreSteps) -> bool:
        return command.epoch >= self.wanted_from and self.now <= command.expires_at

    # --- time -------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let time pass, and look for what is overdue."""
        self.now += timedelta(seconds=seconds)
        self.control(RequestOverdue())

    def settle(self, *, limit: int = 5_000) -> State:
        """Run without further disturbance until nothing is under way and the problem has ended."""
        for _ in range(limit):
            if self.bus:
                self.deliver(0)
            elif self.stretches:
                self.work(0)
            elif self.state.status.is_final:
                return self.state
            else:
                assert self.state.due_at is not None
                self.now = max(self.now, self.state.due_at)
                self.control(RequestOverdue())
        raise AssertionError("the problem runs for ever")


def make_options(
    policy: Policy,
    *,
    lookahead: int | None = 0,
    limits: Limits | None = None,
    seed: int = 0,
    max_attempts: int = 10_000,
) -> Options:
    """Make the options of a problem under a policy."""
    return Options(
        plan=policy.plan,
        lookahead=lookahead,
        limits=limits or Limits(max_steps=8, max_tokens=80),
        sampling=Sampling(seed=seed),
        max_attempts=max_attempts,
    )


def essence(state: State) -> tuple[object, ...]:
    """Tell what a problem came to: all that must not depend on the order or number of messages."""
    return (
        state.status,
        state.stop_reason,
        state.answer,
        state.failure,
        state.epoch,
        [(step.index, step.author, step.text, step.finish, step.tokens, step.score) for step in state.steps],
        [
            (record.step, record.epoch, record.observation, record.decision)
            + ((record.draft.index, record.draft.text, record.draft.finish) if record.draft else ())
            for record in state.decisions
        ],
        state.ledger.small_kept,
        state.ledger.small_discarded,
        state.ledger.large_out,
    )


__all__ = [
    "PROBLEM_ID",
    "QUESTION",
    "START",
    "Simulation",
    "World",
    "essence",
    "make_draft",
    "make_options",
]
