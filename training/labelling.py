"""Labels the steps of solutions by continuation: a prefix is right if the large model, alone, finishes it rightly.

This is the label of Math-Shepherd (arXiv 2312.08935, section 3.3: hard estimation) with one completion, by the strong
model. So a solution with the right answer has no wrong step, and a problem that the large model cannot solve is wrong
from its first step. A solution without an answer has no wrong step if the large model finishes it rightly. The first
wrong step is searched by bisection, as in OmegaPRM (arXiv 2406.06592), which takes a number of completions that grows
with the logarithm of the length.

A solution is left out if the plain comparison cannot tell whether its answer, or that of a continuation, is right.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum

from evaluation.engines import LoadedEngines
from evaluation.in_process import TIMEOUT_S, Tell, score
from shared.cancellation import Cancellation
from shared.domain.answers import boxed_answer
from shared.domain.decisions import Action, DecidedBy
from shared.domain.drafts import Draft, Finish
from shared.domain.endings import final_answer, find_ending
from shared.domain.status import Status, StopReason
from shared.domain.steps import Step
from shared.domain.verdict import Verdict, verdict_of
from shared.engines.port import GenerationRequest, Meter
from shared.errors import PermanentError
from shared.machine.state import State
from training.traces import Rewrite, Trace

LABEL = "continuation by the large model (Math-Shepherd), one completion"
"""How the steps are labelled, for the card of an artefact."""


class LeftOut(StrEnum):
    """Why a solution has no labels."""

    NOT_SUCCEEDED = "not_succeeded"
    """The problem did not succeed."""
    UNVERIFIED = "unverified"
    """A plain comparison cannot tell whether its answer is right."""
    NO_STEPS = "no_steps"
    """It has no step."""
    NO_SCORES = "no_scores"
    """A step has no usable score."""
    UNKNOWN_CONTINUATION = "unknown_continuation"
    """The large model cannot continue from a prefix, or a plain comparison cannot decide its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A labelled solution."""

    trace: Trace
    rewrites: Sequence[Rewrite]
    """The large steps in place of drafts; at most one is judged."""


class _Unknown(Exception):
    """Nothing tells whether a prefix is right."""


def label_all(
    solved: Sequence[State], engines: LoadedEngines, *, seed: int, tell: Tell = lambda _done, _count: None
) -> tuple[list[Labelled], dict[str, int]]:
    """Label solutions; return those that have labels, and count the others by reason.

    Args:
        solved: Problems with references that have ended.
        engines: The engines.
        seed: Seed of the drafts that are drawn to be judged.
        tell: Receives the progress.

    Raises:
        EngineDead: An engine cannot go on.
    """
    found: list[Labelled] = []
    left_out: Counter[LeftOut] = Counter()
    with ThreadPoolExecutor(engines.concurrency) as pool:
        works = pool.map(lambda pair: label(pair[1], engines, random.Random(f"{seed}/{pair[0]}")), enumerate(solved))  # noqa: S311
        for done, each in enumerate(works, start=1):
            tell(done, len(solved))
            if isinstance(each, LeftOut):
                left_out[each] += 1
            else:
                found.append(each)
    return found, {str(reason): left_out[reason] for reason in LeftOut if left_out[reason]}


def label(state: State, engines: LoadedEngines, draw: random.Random) -> Labelled | LeftOut:
    """Label a solution, or tell why it has no labels.

    At most one draft that the large model replaced is judged, drawn by lot: judging all of them would take more large
    tokens than all the rest.
    """
    if (left_out := _left_out(state)) is not None:
        return left_out
    if (scores := _scores(state, engines)) is None:
        return LeftOut.NO_SCORES
    texts = tuple(step.text for step in state.steps)
    try:
        first_error = None if state.verdict is Verdict.CORRECT else _first_error(state, engines)
    except _Unknown:
        return LeftOut.UNKNOWN_CONTINUATION
    trace = Trace(
        question=state.question,
        scores=scores,
        tokens=tuple(step.tokens for step in state.steps),
        authors=tuple(step.author for step in state.steps),
        first_error=first_error,
    )
    right = len(texts) if first_error is None else first_error
    replaced = {step: draft for step, draft in _replaced(state) if step < len(texts)}
    rewrites = {
        step: Rewrite(draft_tokens=draft.tokens, tokens=state.steps[step].tokens, is_right=None)
        for step, draft in replaced.items()
    }
    if after_right := [step for step in replaced if step <= right]:
        step = draw.choice(after_right)
        if reaches_answer(state, (*state.steps[:step], replaced[step]), engines) is False:
            rewrites[step] = replace(rewrites[step], is_right=step < right)
    return Labelled(trace=trace, rewrites=list(rewrites.values()))


def reaches_answer(state: State, written: Sequence[Step | Draft], engines: LoadedEngines) -> bool | None:
    """Tell whether the large model, continuing alone from a prefix, reaches the right answer; `None` if unknown.

    The continuation may have as many steps as a whole solution, so that a late prefix has the chance of an early one.
    None follows a step that was cut, or that ends the solution with an answer.
    """
    limits, prefix = state.options.limits, tuple(step.text for step in written)
    steps, is_cut = list(prefix), written[-1].finish is Finish.LENGTH
    if not _is_over(state.question, written):
        request = GenerationRequest(
            problem_id=state.problem_id,
            question=state.question,
            prefix=prefix,
            max_steps=limits.max_steps,
            max_step_tokens=limits.max_step_tokens,
            max_tokens=limits.max_tokens,
            step_timeout_s=TIMEOUT_S,
            sampling=state.options.sampling,
        )
        try:
            with closing(engines.large.stream(request, Cancellation(), Meter())) as further:
                for step in further:
                    steps.append(step.text)
                    is_cut = step.finish is Finish.LENGTH
        except PermanentError:  # The prefix fills its context, for example, which tells nothing about the steps.
            return None
    verdict = verdict_of(final_answer(steps, question=state.question, is_cut=is_cut), state.reference)
    return None if verdict is Verdict.UNVERIFIED else verdict is Verdict.CORRECT


def _is_over(question: str, written: Sequence[Step | Draft]) -> bool:
    *before, last = written
    texts = [step.text for step in before]
    has_answer = boxed_answer(last.text, question=question) is not None
    ending = find_ending(last.text, finish=last.finish, before=texts, question=question)
    return last.finish is Finish.LENGTH or (has_answer and ending is StopReason.FINAL_ANSWER)


def _left_out(state: State) -> LeftOut | None:
    """Tell why a solution has no labels, if that needs no engine."""
    if state.status is not Status.SUCCEEDED:
        return LeftOut.NOT_SUCCEEDED
    if state.verdict is Verdict.UNVERIFIED:
        return LeftOut.UNVERIFIED
    return None if state.steps else LeftOut.NO_STEPS


def _first_error(state: State, engines: LoadedEngines) -> int | None:
    """Find the first wrong step of a solution whose answer is not right; `None` if it only lacks an answer.

    Raises:
        _Unknown: Nothing tells whether a prefix is right.
    """

    def is_wrong(step: int) -> int:
        reaches = reaches_answer(state, state.steps[: step + 1], engines)
        if reaches is None:
            raise _Unknown
        return int(not reaches)

    # The last step leaves a wrong answer as it is, so that step is wrong if no earlier one is.
    count = len(state.steps)
    open_steps = count if state.verdict is Verdict.NO_ANSWER else count - 1
    found = bisect_left(range(open_steps), 1, key=is_wrong)
    return found if found < count else None


def _scores(state: State, engines: LoadedEngines) -> tuple[float, ...] | None:
    """Return the scores of all steps; `None` if one has no usable score."""
    scores = [step.score for step in state.steps]
    if scores and scores[-1] is None:
        # The service has large steps scored with the draft after them, and after the last step there is none.
        texts = tuple(step.text for step in state.steps)
        scores[-1:] = score(state.question, texts, engines, newest=1, problem_id=state.problem_id)
    known = tuple(score for score in scores if score is not None)
    return known if len(known) == len(scores) else None


def _replaced(state: State) -> Iterator[tuple[int, Draft]]:
    """Yield each draft that the policy sent to the large model, with its index."""
    for record in state.decisions:
        by_policy = record.decided_by is DecidedBy.POLICY and record.decision.action is Action.ESCALATE
        if by_policy and record.draft is not None:
            yield record.step, record.draft
