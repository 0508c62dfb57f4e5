"""Any one role is killed in the middle of the work and started again: nothing is lost, nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.deployment import Deployment, deployed
from stack.roles import ROLES

PROBLEMS = 24
STEPS = 8
SCRIPT = {
    "default": [
        {"small": f"Step {index} as drafted.", "large": f"Step {index} as it should be.",
         "score": 0.1 if index in (2, 5) else 0.9, "small_ms": 20, "large_ms": 20, "prm_ms": 10}
        for index in range(STEPS - 1)
    ]
    + [{"small": "The answer is \\boxed{7}.", "small_ms": 20, "prm_ms": 10}]
}  # fmt: skip
SOLUTION = [
    (index, "large" if index in (2, 5) else "small",
     f"Step {index} as it should be." if index in (2, 5) else f"Step {index} as drafted.")
    for index in range(STEPS - 1)
] + [(STEPS - 1, "small", "The answer is \\boxed{7}.")]  # fmt: skip


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, module_servers: dict[str, str]) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("service"), **module_servers, script=SCRIPT, window="12") as running:
        yield running


@pytest.mark.servers
@pytest.mark.parametrize(("lookahead", "role"), [*((4, role) for role in ROLES), (0, "orchestrator"), (0, "small")])
def test_a_killed_role_loses_no_problem_and_doubles_no_step(deployment: Deployment, role: str, lookahead: int) -> None:
    deployment.api.wait_until_ready(deployment.roles.check)  # The test before this one killed a role.
    ids = deployment.submit(PROBLEMS, lookahead=lookahead, step_timeout_s=2, max_attempts=10)
    of_these = "WHERE problem_id = ANY(%s::uuid[])"
    deployment.until(lambda: len(deployment.rows(f"SELECT 1 FROM steps {of_these}", ids)) >= PROBLEMS)
    assert any(row["status"] in ("queued", "running") for row in deployment.problems(ids)), "killed too late"

    deployment.roles.kill(role)
    deployment.roles.start(role)

    rows = deployment.finish(ids)
    assert {(row["status"], row["answer"], row["verdict"]) for row in rows} == {("succeeded", "7", "correct")}
    assert [deployment.trajectory(each) for each in ids] == [SOLUTION] * PROBLEMS
    decided = deployment.rows(f"SELECT problem_id, step FROM decisions {of_these}", ids)
    assert len(decided) == len({(row["problem_id"], row["step"]) for row in decided}) == PROBLEMS * STEPS
    kept = {(row["small_kept"], row["small_discarded"], row["large_out"]) for row in rows}
    assert len(kept) == 1, "every problem cost the same, however often a message came"
