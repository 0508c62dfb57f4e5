"""The workers of a role die: problems wait for it or go on without it, as they chose, and their record is sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.deployment import Deployment, deployed
from migrations.verifying import verify

pytestmark = pytest.mark.servers

THRESHOLD = {"name": "threshold"}
PROBLEMS = [
    {"policy": THRESHOLD},
    {"policy": THRESHOLD, "lookahead": 2},
    {"policy": {**THRESHOLD, "wrappers": {"take_over": True}}},
    {"policy": {**THRESHOLD, "wrappers": {"budget": 1000, "epsilon": 0.3}}, "lookahead": 2},
    {"policy": {"name": "cascade"}},
]
"""Problems of each mode. Only those of the plain policy certainly need each role."""

PLAIN = 2
"""Number of problems of the plain policy, which come first."""

STEPS = 8
SCRIPT = {
    "default": [
        {"small": f"Step {index} as drafted.", "large": f"Step {index} as it should be.",
         "score": 0.1 if index % 2 else 0.9, "small_ms": 80, "large_ms": 40, "prm_ms": 20}
        for index in range(STEPS - 1)
    ]
    + [{"small": "The answer is \\boxed{7}."}]
}  # fmt: skip
SOLUTION = [
    (index, "large" if index % 2 else "small", f"Step {index} {'as it should be' if index % 2 else 'as drafted'}.")
    for index in range(STEPS - 1)
] + [(STEPS - 1, "small", "The answer is \\boxed{7}.")]  # fmt: skip

MODES = {
    "prm": {"wait": None, "escalate": ("escalate", "prm_away"), "accept": ("accept", "prm_away")},
    "large": {"wait": None, "accept": ("accept", "large_away"), "fail": None},
    "small": {"wait": None, "large-only": ("escalate", "small_away")},
}
"""What rules decide on problems in each mode of each role."""


def submit(deployment: Deployment, role: str, mode: str) -> list[str]:
    problems = [{"question": f"What is problem {number}?", **each} for number, each in enumerate(PROBLEMS)]
    return deployment.submit_all(
        problems, **{f"when_{role}_away": mode}, away_patience_s=0.5, step_timeout_s=60, max_attempts=1,
        shadows=[{"name": "small-only"}],
    )  # fmt: skip


def check(deployment: Deployment, ids: list[str], role: str, mode: str) -> None:
    """Check that problems ended as their mode says, and that rules decided what it says, with its reason."""
    outcome = ("failed", "large_away") if mode == "fail" else ("succeeded", None)
    rows = deployment.finish(ids)
    ends = [(row["status"], row["failure_code"]) for row in rows]
    assert {row["attempts"] for row in rows} == {0}
    assert set(ends[:PLAIN]) == {outcome}, (role, mode)
    assert set(ends) <= {outcome, ("succeeded", None)}, (role, mode)
    rules = "SELECT DISTINCT action, reason FROM decisions WHERE problem_id = %s AND reason LIKE '%%_away'"
    expected = {MODES[role][mode]} - {None}
    for number, each in enumerate(ids):
        ruled = {(row["action"], row["reason"]) for row in deployment.rows(rules, each)}
        assert ruled == expected or (number >= PLAIN and not ruled), (role, mode, number)
        if mode == "wait" and number < PLAIN:
            assert deployment.trajectory(each) == SOLUTION


def lose(deployment: Deployment, role: str) -> None:
    """Kill a role in the middle of problems of each mode, and start it again once the others have ended or wait."""
    ids = {mode: submit(deployment, role, mode) for mode in MODES[role]}
    of_these = "id = ANY(%s::uuid[])"
    plain = [each for some in ids.values() for each in some[:PLAIN]]
    started = f"SELECT 1 FROM problems WHERE {of_these} AND step_count > 0"
    deployment.until(lambda: len(deployment.rows(started, plain)) == len(plain))
    deployment.roles.kill(role)
    for mode in MODES[role]:
        if mode != "wait":
            check(deployment, ids[mode], role, mode)
    waits = f"SELECT 1 FROM problems WHERE {of_these} AND absences ? '{role}' AND due_at IS NULL"
    deployment.until(lambda: len(deployment.rows(waits, ids["wait"][:PLAIN])) == PLAIN)
    deployment.roles.start(role)
    check(deployment, ids["wait"], role, "wait")


@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
def test_problems_wait_for_a_role_or_go_on_without_it_as_they_chose(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    with deployed(tmp_path, database_url=database_url, broker_url=broker_url, script=SCRIPT) as deployment:
        for role in MODES:
            lose(deployment, role)
        lines: list[str] = []
        assert verify(deployment.settings, allow_open=False, tell=lines.append), lines
