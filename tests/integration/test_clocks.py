"""Workers on hosts whose time of day is wrong lose nothing, and what they report is in the service's time."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.deployment import deployed

pytestmark = pytest.mark.servers

PROBLEMS, STEPS = 16, 4
SCRIPT = {
    "default": [
        {"small": f"Step {index}.", "large": f"Step {index}, better.", "score": 0.1 if index == 2 else 0.9,
         "small_ms": 20, "large_ms": 20, "prm_ms": 20}
        for index in range(STEPS)
    ]
}  # fmt: skip


@pytest.mark.parametrize(
    ("broker_url", "ahead"),
    [
        ("rabbitmq", {"small": (-3600, -120, 120), "large": (-120, 120, 3600), "prm": (-3600, -120, 3600)}),
        # Each worker takes a dozen connections of the server, which other tests use as well.
        ("pgmq", {"small": (3600,), "large": (-3600,), "prm": (120,)}),
    ],
    indirect=["broker_url"],
)
def test_workers_whose_clocks_are_wrong_solve_all_problems(
    tmp_path: Path, database_url: str, broker_url: str, ahead: dict[str, tuple[int, ...]]
) -> None:
    workers = [
        (role, seconds, f"{role}-{at}" if at else role) for role in ahead for at, seconds in enumerate(ahead[role])
    ]
    roles = {name: ["-m", "tests.integration.skewed_worker", str(seconds), role] for role, seconds, name in workers}
    with deployed(
        tmp_path, database_url=database_url, broker_url=broker_url, script=SCRIPT, more_roles=roles, concurrency="2"
    ) as deployment:
        query = "SELECT name, clock_ahead_s, seen_at <= now() AS is_past FROM processes WHERE role = ANY(%s)"
        deployment.until(
            lambda: (
                [row["clock_ahead_s"] is not None for row in deployment.rows(query, [*ahead])] == [True] * len(roles)
            )
        )
        rows = deployment.finish(deployment.submit(PROBLEMS))
        assert {(row["status"], row["attempts"]) for row in rows} == {("succeeded", 0)}
        names = {f"{name}-0" for name in roles}
        worked = "SELECT worker AS name FROM steps UNION SELECT prm_worker FROM decisions WHERE prm_worker IS NOT NULL"
        assert {row["name"] for row in deployment.rows(worked)} == names
        seen = {row["name"]: row for row in deployment.rows(query, [*ahead])}
        assert seen.keys() == names
        for _, seconds, name in workers:
            assert abs(seen[f"{name}-0"]["clock_ahead_s"] - seconds) < 30
            assert seen[f"{name}-0"]["is_past"]
