"""Where solutions end in the whole service: engines stop where the state machine ends, however far they draft ahead."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.options import Limits, Options
from shared.domain.roles import Author
from shared.domain.status import Status, StopReason
from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer
from shared.machine.state import State
from shared.policies.registry import build_policy
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines

ROOT = "\\boxed{3} is the first root."


def solve(*steps: dict[str, Any], lookahead: int, max_step_tokens: int = 512) -> State:
    script = Script.model_validate({"default": steps})
    writers = {author.value: ScriptedGenerator(script, author) for author in Author}
    service = SimulatedService(Engines(**writers, prm=ScriptedScorer(script)))
    options = Options(lookahead=lookahead, limits=Limits(max_step_tokens=max_step_tokens))
    problem_id = service.submit("What are the roots?", build_policy("threshold", {"threshold": 0.5}), options)
    service.run()
    state = service.state(problem_id)
    assert state.status is Status.SUCCEEDED
    return state


@pytest.mark.parametrize("lookahead", [0, 1, 4])
def test_a_model_with_nothing_to_add_to_a_box_costs_one_small_token(lookahead: int) -> None:
    state = solve({"small": ROOT}, {"small": ""}, lookahead=lookahead)
    assert (state.stop_reason, state.answer, len(state.steps)) == (StopReason.FINAL_ANSWER, "3", 1)
    ledger = state.ledger
    assert (ledger.small_wasted, ledger.prm_calls, ledger.large_calls, state.escalation_count) == (1, 1, 0, 0)
    assert ledger.small_calls == (2 if lookahead == 0 else 1)


@pytest.mark.parametrize("lookahead", [0, 1, 4])
def test_a_solution_goes_on_after_a_box_if_the_model_has_more_to_write(lookahead: int) -> None:
    last = {"small": "The answer is \\boxed{7}."}
    state = solve({"small": ROOT}, {"small": "Now the other one."}, last, {"small": "Never."}, lookahead=lookahead)
    assert (state.stop_reason, state.answer, len(state.steps)) == (StopReason.FINAL_ANSWER, "7", 3)
    assert state.ledger.small_wasted == 0


@pytest.mark.parametrize("lookahead", [0, 1, 4])
def test_nothing_is_written_after_a_step_that_was_cut(lookahead: int) -> None:
    steps = [{"small": "One."}, {"small": "This makes 12 3"}, {"small": "Never."}]
    state = solve(*steps, lookahead=lookahead, max_step_tokens=3)
    assert (state.stop_reason, [step.text for step in state.steps]) == (StopReason.STEP_CUT, ["One.", "This makes 12"])
    assert (state.answer, state.ledger.small_wasted) == (None, 0)


@pytest.mark.parametrize("lookahead", [0, 1, 4])
def test_nothing_is_written_after_a_step_that_repeats_another(lookahead: int) -> None:
    state = solve(*[{"small": "Let us see."}] * 9, lookahead=lookahead)
    assert (state.stop_reason, len(state.steps), state.ledger.small_wasted) == (StopReason.REPEATED, 2, 0)


@pytest.mark.parametrize("lookahead", [0, 1, 4])
def test_an_escalated_step_leads_out_of_a_loop(lookahead: int) -> None:
    loop = {"small": "Let us see."}
    state = solve(
        loop, {**loop, "large": "x = 7.", "score": 0.1}, {"small": "The answer is \\boxed{7}."}, lookahead=lookahead
    )
    assert (state.answer, [step.author for step in state.steps]) == ("7", [Author.SMALL, Author.LARGE, Author.SMALL])
