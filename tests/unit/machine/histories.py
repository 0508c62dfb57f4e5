"""What the tests of the state machine by example have in common: short ways to write down what happens."""

from __future__ import annotations

from datetime import timedelta

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.drafts import Draft, Finish, Scoring
from shared.domain.options import Options, Plan
from shared.domain.text import prefix_digest
from shared.machine.commands import next_commands
from shared.machine.state import (
    ControlEvent,
    ProblemAdmitted,
    State,
    new_state,
)
from shared.machine.transitions import apply
from shared.messages import (
    GenerateSteps,
    ProblemEvent,
    StepsGenerated,
    StepsScored,
    WorkFailed,
    derive_id,
)
from tests.world import PROBLEM_ID, QUESTION, START, make_draft

LATER = START + timedelta(seconds=10)
DRAFTS_ONLY = Plan(scores=False, escalates=False)
LARGE_ONLY = Plan(drafts=False, scores=False)


def by_score(observation: Observation) -> Decision:
    """Escalate below a half, and without a score."""
    score = observation.score
    accepts = score is not None and score >= 0.5
    return Decision(action=Action.ACCEPT if accepts else Action.ESCALATE, reason="test", value=score, compared_with=0.5)


def keep(observation: Observation) -> Decision:
    return Decision(action=Action.ACCEPT, reason="kept")


def feed(state: State, *events: ProblemEvent | ControlEvent, **how: object) -> State:
    """Apply events one after another, as a store would: with the whole inbox at hand."""
    decide = keep if state.options.plan == DRAFTS_ONLY else by_score
    for event in events:
        state = apply(state, event, decide=decide, now=how.get("now", START))  # type: ignore[arg-type]
    return state


def running(**options: object) -> State:
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(**options))  # type: ignore[arg-type]
    return feed(state, ProblemAdmitted())


def command_of(state: State) -> GenerateSteps:
    (command,) = [each for each in next_commands(state) if isinstance(each, GenerateSteps)]
    return command


def drafts_of(command: GenerateSteps, *texts: str, finish: Finish = Finish.SEPARATOR, tokens: int = 5) -> list[Draft]:
    """Write the drafts that a command asks for; the last one has the given finish."""
    drafts = []
    for place, text in enumerate(texts):
        prefix = (*command.prefix, *texts[:place])
        drafts.append(
            make_draft(
                command_id=command.id,
                author=command.role,
                index=len(prefix),
                after=prefix_digest(QUESTION, prefix),
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
    serial: int = 0,
    code: str = "engine_busy",
    lost: tuple[Draft, ...] = (),
) -> WorkFailed:
    return WorkFailed(
        drafts=lost,
        step=step,
        request_number=serial,
        problem_id=PROBLEM_ID,
        epoch=epoch,
        id=derive_id(name),
        role="prm" if lost else "small",
        code=code,
        detail="The engine was busy.",
        retryable=retryable,
        worker="w",
    )


def answer(state: State, text: str, *, score: float | None = None, finish: Finish = Finish.SEPARATOR) -> State:
    """Answer what the state asks for by one step: scored if it is to be scored."""
    command = command_of(state)
    (draft,) = drafts_of(command, text, finish=finish)
    if command.results_to == "prm":
        return feed(state, scored(draft, scores=(score,), epoch=state.epoch))
    return feed(state, generated(draft, epoch=state.epoch))
