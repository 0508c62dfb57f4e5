"""The commands that should be out for a state."""

from __future__ import annotations

from shared.domain.state import State
from shared.domain.values import Role, Status
from shared.messages import CancelWork, Command, GenerateSteps, derive_id


def next_commands(state: State) -> tuple[Command | CancelWork, ...]:
    """Derive the commands that should be out for a state; always the same ones for the same state."""
    cancel = CancelWork(problem_id=state.problem_id, epoch=state.epoch)
    if state.status.is_final:
        return () if state.status is Status.SUCCEEDED else (cancel,)
    ask, options = state.ask, state.options
    if ask is None or ask.broken_off_at is not None:
        return ()
    # Of the steps, only those before the ask: what is known of later ones must not change a command that is out.
    before = state.steps[: ask.from_step]
    ahead = state.chain[: max(0, ask.from_step - len(state.steps))]
    written = sum(step.tokens for step in before) + sum(each.draft.tokens for each in ahead)
    drafting = ask.role is Role.SMALL
    generate = GenerateSteps(
        id=derive_id(state.problem_id, state.epoch, ask.from_step, "generate_steps", ask.role, ask.serial),
        problem_id=state.problem_id,
        epoch=state.epoch,
        issued_at=ask.issued_at,
        expires_at=ask.expires_at,
        serial=ask.serial,
        # What the ask is given: a step that took too long must not be cut off at the same time again.
        step_timeout_s=(ask.expires_at - ask.issued_at).total_seconds(),
        question=state.question,
        prefix=tuple(step.text for step in before) + tuple(each.draft.text for each in ahead),
        role=ask.role,
        max_steps=ask.max_steps,
        max_step_tokens=options.limits.max_step_tokens,
        max_tokens=max(1, options.limits.max_tokens - written),
        then="prm" if drafting and options.plan.scores else "events",
        announce=drafting and options.plan.scores and options.lookahead not in (0, None),
        unscored=ask.unscored,
        sampling=options.sampling,
    )
    if state.is_escalating and options.lookahead != 0:
        return cancel, generate
    return (generate,)
