"""Everything goes wrong at once, from a seed: each problem still ends as it does undisturbed, and the record is sound.

Messages are moved to other queues, doubled, replayed, held and lost, processes are killed and stopped, two
orchestrators share the work, and deadlines pass. The models follow a script, so the simulation of the real code gives
the outcome of each problem without any disturbance.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chaos.deployment import Deployment, deployed
from chaos.meddling import disturb, meddling
from migrations.verifying import verify
from shared.domain.options import Options
from shared.domain.roles import Author
from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer
from shared.machine.state import State
from shared.policies.registry import build_policy
from shared.settings import Settings
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines
from stack.roles import ROLES

pytestmark = pytest.mark.servers

PROBLEMS = 30
POLICY = {"name": "threshold", "parameters": {"threshold": 0.5}}
SECOND = "orchestrator-2"
VICTIMS = ("orchestrator", SECOND, "small", "large", "prm")
SLOW = "Slow?"


def write_script(draw: random.Random, *, delay_ms: float) -> dict[str, Any]:
    """Write a solution for each problem: authors differ in words and number of tokens."""
    problems = {}
    for number in range(PROBLEMS):
        steps = [
            {"small": f"Step {index}, drafted.", "large": f"Step {index}, as it should be written.",
             "score": draw.choice([0.1, 0.9, 0.9]), "small_ms": delay_ms, "large_ms": delay_ms, "prm_ms": delay_ms / 2}
            for index in range(draw.randrange(2, 6))
        ]  # fmt: skip
        problems[f"What is {number}?"] = [*steps, {"small": f"So \\boxed{{{number}}}.", "small_ms": delay_ms}]
    slow = [{"small": f"Slow step {index}.", "small_ms": 400} for index in range(9)]
    return {"problems": {**problems, SLOW: slow}}


def solve_undisturbed(script: Mapping[str, Any], question: str, lookahead: int) -> State:
    """Solve a problem in a simulation of the real code."""
    read = Script.model_validate(script)
    small, large = (ScriptedGenerator(read, author) for author in Author)
    service = SimulatedService(Engines(small=small, large=large, prm=ScriptedScorer(read)))
    policy = build_policy("threshold", POLICY["parameters"])  # type: ignore[arg-type]
    problem_id = service.submit(question, policy, Options(lookahead=lookahead))
    service.run()
    return service.state(problem_id)


def expected_of(state: State) -> tuple[object, ...]:
    kept = state.ledger.small_kept, state.ledger.small_discarded, state.ledger.large_out
    return (
        state.status.value,
        state.answer,
        kept,
        [(step.text, step.author, step.model, step.tokens, step.score) for step in state.steps],
        [
            (each.step, each.decision.action, each.decision.reason, each.decision.value, each.draft and each.draft.text)
            for each in state.decisions
        ],
    )


def found_of(deployment: Deployment, problem_id: str) -> tuple[object, ...]:
    [row] = deployment.problems([problem_id])
    steps = deployment.rows(
        "SELECT text, author, model, tokens, score FROM steps WHERE problem_id = %s ORDER BY step", problem_id
    )
    decisions = deployment.rows(
        "SELECT step, action, reason, value, draft_text FROM decisions WHERE problem_id = %s ORDER BY number",
        problem_id,
    )
    kept = row["small_kept"], row["small_discarded"], row["large_out"]
    return (
        row["status"],
        row["answer"],
        kept,
        [tuple(each.values()) for each in steps],
        [tuple(each.values()) for each in decisions],
    )


@pytest.mark.parametrize(("broker_url", "seed"), [("rabbitmq", 1)], indirect=["broker_url"])
def test_problems_end_as_undisturbed_under_chaos_and_the_record_is_sound(
    tmp_path: Path, database_url: str, broker_url: str, seed: int
) -> None:
    draw = random.Random(seed)
    script = write_script(draw, delay_ms=20)
    with (
        deployed(
            tmp_path, database_url=database_url, broker_url=broker_url, script=script, visibility_timeout_s="2",
            concurrency="2", window="64", more_roles={SECOND: ROLES["orchestrator"]},
        ) as deployment,
        meddling(deployment.settings, draw) as meddler,
    ):  # fmt: skip
        common: dict[str, Any] = {"policy": POLICY, "step_timeout_s": 2, "max_attempts": 20}
        lookaheads = {f"What is {number}?": 4 * (number % 2) for number in range(PROBLEMS)}
        problems = [{"question": each, "lookahead": lookahead} for each, lookahead in lookaheads.items()]
        ids = deployment.submit_all(problems, **common)
        late = deployment.submit_all([{"question": SLOW}] * 10, **common, deadline_s=1.5)
        disturb(deployment, meddler, draw, victims=VICTIMS)
        meddler.replay_all()
        deployment.until(lambda: meddler.count_waiting() == 0)

        expected = {
            question: expected_of(solve_undisturbed(script, question, lookaheads[question])) for question in lookaheads
        }
        assert dict(zip(lookaheads, (found_of(deployment, each) for each in ids), strict=True)) == expected
        assert {row["status"] for row in deployment.problems(late)} <= {"expired", "succeeded"}
        reasons = meddler.take_reasons()
        assert [each for each in reasons if "does not belong on this queue" not in each] == []
        assert len(reasons) >= meddler.done["moved"] + meddler.done["copied elsewhere"] > 0, meddler.done
        lines: list[str] = []
        settings = Settings.model_validate({"database_url": database_url, "broker_url": None})
        assert verify(settings, allow_open=False, tell=lines.append), lines
