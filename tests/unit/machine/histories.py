"""Builders of states and events for tests of the state machine by example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from shared.domain.artefacts import ModelIds
from shared.domain.decisions import Action, Decision, Observation, PolicyVersion
from shared.domain.drafts import Draft, Finish, Scoring, UnfinishedWork
from shared.domain.options import Options, Plan
from shared.domain.roles import Author, WorkerRole
from shared.domain.text import prefix_digest
from shared.errors import Fault
from shared.machine.commands import next_commands
from shared.machine.state import ControlEvent, ProblemAdmitted, State, new_state
from shared.machine.transitions import apply
from shared.messages import GenerateSteps, ProblemEvent, StepsGenerated, StepsScored, WorkFailed, derive_id

START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = START + timedelta(seconds=10)
PROBLEM_ID = UUID("00000000-0000-4000-8000-000000000001")
QUESTION = "What is 6 times 7?"
DRAFTS_ONLY = Plan(scores=False, escalates=False)
LARGE_ONLY = Plan(drafts=False, scores=False)
VERSION = PolicyVersion(name="test", revision=3, parameters_digest="0123456789abcdef")


@dataclass(frozen=True)
class Deciding:
    """A policy that calls a function."""

    decide: Callable[[Observation], Decision]
    version: PolicyVersion = VERSION
    models: ModelIds | None = None
    before_draft: Callable[[Observation], Decision | None] = lambda _: None


def _by_score(observation: Observation) -> Decision:
    score = observation.score
    accepts = score is not None and score >= 0.5
    return Decision(action=Action.ACCEPT if accepts else Action.ESCALATE, reason="test", value=score, compared_with=0.5)


BY_SCORE = Deciding(_by_score)
"""Escalates if the score is below 0.5 or missing."""

KEEP = Deciding(lambda _: Decision(action=Action.ACCEPT, reason="kept"))
"""Accepts everything."""


def make_draft(
    *,
    command_id: UUID,
    author: Author,
    index: int,
    prefix_digest: str,
    text: str,
    finish: Finish = Finish.SEPARATOR,
    tokens: int = 5,
    opens_call: bool = True,
) -> Draft:
    """Make a draft as a worker would for a command."""
    return Draft(
        id=derive_id(command_id, index),
        author=author,
        index=index,
        prefix_digest=prefix_digest,
        text=text,
        finish=finish,
        tokens=tokens,
        opens_call=opens_call,
        model=f"{author}-model",
        worker="worker-1",
        waited_ms=1.0,
        worked_ms=2.0,
    )


def feed(state: State, *events: ProblemEvent | ControlEvent, now: datetime = START) -> State:
    """Apply events one after another, with the whole inbox loaded."""
    policy = KEEP if state.options.plan == DRAFTS_ONLY else BY_SCORE
    for event in events:
        state = apply(state, event, policy=policy, now=now)
    return state


def running(*, reference: str | None = None, question: str = QUESTION, **options: object) -> State:
    state = new_state(
        problem_id=PROBLEM_ID,
        question=question,
        reference=reference,
        options=Options(**options),  # type: ignore[arg-type]
    )
    return feed(state, ProblemAdmitted())


def command_of(state: State) -> GenerateSteps:
    (command,) = [each for each in next_commands(state) if isinstance(each, GenerateSteps)]
    return command


def drafts_of(command: GenerateSteps, *texts: str, finish: Finish = Finish.SEPARATOR, tokens: int = 5) -> list[Draft]:
    """Write the drafts that a command requests; the last one has the given finish."""
    drafts = []
    for place, text in enumerate(texts):
        prefix = (*command.prefix, *texts[:place])
        drafts.append(
            make_draft(
                command_id=command.id,
                author=command.author,
                index=len(prefix),
                prefix_digest=prefix_digest(command.question, prefix),
                text=text,
                finish=finish if place == len(texts) - 1 else Finish.SEPARATOR,
                tokens=tokens,
                opens_call=place == 0,
            )
        )
    return drafts


def generated(*drafts: Draft, epoch: int = 0) -> StepsGenerated:
    identity = derive_id("generated", *(draft.id for draft in drafts))
    return StepsGenerated(problem_id=PROBLEM_ID, epoch=epoch, id=identity, drafts=drafts)


def scored(
    *drafts: Draft, scores: tuple[float | None, ...], epoch: int = 0, prefix_scores: tuple[float | None, ...] = ()
) -> StepsScored:
    identity = derive_id("scored", *(draft.id for draft in drafts))
    return StepsScored(
        problem_id=PROBLEM_ID,
        epoch=epoch,
        id=identity,
        drafts=drafts,
        scores=scores,
        prefix_scores=prefix_scores,
        scoring=Scoring(id=identity, model="prm", worker="w", tokens=7, waited_ms=0, worked_ms=0),
    )


def failed(
    *,
    retryable: bool,
    epoch: int = 0,
    name: str = "failed",
    step: int = 0,
    request_number: int = 0,
    code: str = "engine_busy",
    lost: tuple[Draft, ...] = (),
    unfinished: UnfinishedWork | None = None,
    fault: Fault | None = None,
) -> WorkFailed:
    return WorkFailed(
        drafts=lost,
        step=step,
        request_number=request_number,
        problem_id=PROBLEM_ID,
        epoch=epoch,
        id=derive_id(name),
        role=WorkerRole.PRM if lost else WorkerRole.SMALL,
        code=code,
        detail="The engine was busy.",
        retryable=retryable,
        fault=fault,
        worker="w",
        unfinished=unfinished,
    )


fail_worker = partial(failed, retryable=True, code="access_denied", fault=Fault.WORKER)
"""Makes the failure of a command through the worker's own fault."""


def answer(state: State, text: str, *, score: float | None = None, finish: Finish = Finish.SEPARATOR) -> State:
    """Answer a state's request with one step, scored if the command requires it."""
    command = command_of(state)
    (draft,) = drafts_of(command, text, finish=finish)
    if command.results_to == "prm":
        return feed(state, scored(draft, scores=(score,), epoch=state.epoch))
    return feed(state, generated(draft, epoch=state.epoch))
