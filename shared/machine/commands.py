"""The commands that should be out for a state."""

from __future__ import annotations

from shared.domain.roles import Author
from shared.domain.status import Status
from shared.domain.text import extend_digest, prefix_digest
from shared.machine.state import State, StepRequest
from shared.messages import CancelWork, Command, GenerateSteps, derive_id


def next_commands(state: State) -> tuple[GenerateSteps | CancelWork, ...]:
    """Derive the commands that should be out for a state; the same state always gives the same commands."""
    cancel = CancelWork(problem_id=state.problem_id, epoch=state.epoch)
    if state.status is Status.SUCCEEDED:
        return (cancel.model_copy(update={"epoch": state.epoch + 1}),) if _may_be_out(state) else ()
    if state.status.is_final:
        return (cancel,)
    request = state.request
    if request is None or request.failed_at_step is not None or request.is_lost:
        return ()
    generate = _generate(state, request)
    if state.is_escalating and (state.options.lookahead != 0 or state.options.plan.decides_whole):
        return cancel, generate
    return (generate,)


def _may_be_out(state: State) -> bool:
    """Tell whether work may still be out although the solution is complete: of an abandoned request, or done twice."""
    return state.oldest_request > 0 or state.ledger.large_wasted > 0


def _generate(state: State, request: StepRequest) -> GenerateSteps:
    options = state.options
    # Only the steps before the request: what is known of later ones must not change a command that is out.
    before = state.steps[: request.from_step]
    ahead = state.chain[: max(0, request.from_step - len(state.steps))]
    written = sum(step.length for step in before) + sum(each.draft.length for each in ahead)
    prefix = tuple(step.text for step in before) + tuple(each.draft.text for each in ahead)
    is_scored = request.author is Author.SMALL and options.plan.scores and not request.skips_prm
    max_step_tokens = options.limits.max_step_tokens
    if request.large_left is not None:
        max_step_tokens = min(max_step_tokens, request.large_left)
    return GenerateSteps(
        id=derive_id(
            state.problem_id, state.epoch, request.from_step, "generate_steps", request.author, request.number
        ),
        problem_id=state.problem_id,
        epoch=state.epoch,
        issued_at=request.issued_at,
        expires_at=request.expires_at,
        request_number=request.number,
        # Grows with the attempts: a step that timed out must not be cut off after the same time again.
        step_timeout_s=(request.expires_at - request.issued_at).total_seconds(),
        question=state.question,
        prefix=prefix,
        prefix_digest=_digest(state, prefix),
        author=request.author,
        max_steps=request.max_steps,
        max_step_tokens=max_step_tokens,
        max_tokens=max(1, options.limits.max_tokens - written),
        results_to="prm" if is_scored else "events",
        reports_stretch=is_scored and options.lookahead not in (0, None),
        unscored_steps=request.unscored_steps,
        reports_confidence=request.author is Author.SMALL and options.plan.confidence,
        sampling=options.sampling,
    )


def _digest(state: State, prefix: tuple[str, ...]) -> str:
    """Compute the digest of a prefix from that of the trajectory, unless the trajectory has grown past it."""
    known = len(state.steps)
    if len(prefix) < known:
        return prefix_digest(state.question, prefix)
    digest = state.digest
    for text in prefix[known:]:
        digest = extend_digest(digest, text)
    return digest


def complete(state: State, command: Command) -> Command | None:
    """Return a command with the steps that it leaves out; `None` if it does not continue what is known of the problem.

    Args:
        state: The problem.
        command: A command whose worker does not know them.
    """
    if command.epoch != state.epoch or state.status is not Status.RUNNING:
        return None
    texts = [step.text for step in state.steps] + [each.draft.text for each in state.chain]
    whole = (*texts[: command.omitted_steps], *command.prefix)
    if len(whole) != command.first_step or prefix_digest(state.question, whole) != command.prefix_digest:
        return None
    return command.with_prefix(whole)
