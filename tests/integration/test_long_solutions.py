"""A step costs about the same wherever it is in a solution: commands leave out what their workers know."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tap import Tap
from chaos.deployment import Deployment, deployed
from migrations.verifying import verify
from shared.bus.topology import Topology
from shared.domain.roles import WorkerRole
from shared.messages import PrefixMissing, ScoreSteps, decode
from stack.roles import ROLES

pytestmark = pytest.mark.servers

STEPS = 60
PROBLEMS = 6
HELD = 30
"""Number of steps after which the solutions need the large model for the first time."""
TEXT = "x" * 500
SOLUTION = [
    {
        "small": f"Step {index}: {TEXT}",
        "large": f"Step {index}, again: {TEXT}",
        "score": 0.1 if index >= HELD and index % 7 == HELD % 7 else 0.9,
    }
    for index in range(STEPS - 1)
] + [{"small": "So it is \\boxed{7}.", "score": 0.9}]
MORE = {f"{role}-2": ROLES[role] for role in ("small", "prm")}
RESTARTED = ("small", "prm", *MORE)
WHOLE_BYTES = (STEPS - 1) * len(TEXT)
"""Bytes of the longest prefix."""


def solve(deployment: Deployment) -> list[bytes]:
    """Solve problems, and replace all workers in the middle of them; return all messages."""
    topology = Topology(deployment.settings.queue_prefix)
    queues = [topology.queue(role) for role in (*WorkerRole, "events")]
    with Tap(deployment.settings, [(queue.exchange.name, queue.routing_key) for queue in queues]) as tap:
        deployment.roles.stop("large")
        ids = deployment.submit(PROBLEMS, lookahead=0, limits={"max_steps": STEPS, "max_tokens": 100_000})
        held = "SELECT 1 FROM problems WHERE step_count = %s HAVING count(*) = %s"
        deployment.until(lambda: deployment.rows(held, HELD, PROBLEMS))
        for role in RESTARTED:
            deployment.roles.stop(role)
        [now] = deployment.rows("SELECT now() AS at")
        for role in RESTARTED:
            deployment.roles.start(role)
        seen = "SELECT 1 FROM processes WHERE seen_at > %s AND completes_prefixes HAVING count(*) = %s"
        deployment.until(lambda: deployment.rows(seen, now["at"], len(RESTARTED)))
        deployment.roles.start("large")
        rows = deployment.finish(ids)
        bodies = tap.drain()
    assert {row["status"] for row in rows} == {"succeeded"}
    assert {(row["small_wasted"], row["large_wasted"]) for row in rows} == {(0, 0)}
    texts = [step["large" if step["score"] == 0.1 else "small"] for step in SOLUTION]
    assert all([text for _, _, text in deployment.trajectory(each)] == texts for each in ids)
    return bodies


def test_workers_complete_long_prefixes_and_new_ones_ask_for_what_they_lack(
    tmp_path: Path, database_url: str, rabbitmq_server: str
) -> None:
    with deployed(
        tmp_path, database_url=database_url, broker_url=rabbitmq_server, script={"default": SOLUTION}, more_roles=MORE,
        concurrency="2",
    ) as deployment:  # fmt: skip
        complete = "SELECT 1 FROM processes WHERE completes_prefixes HAVING count(*) = 5"
        deployment.until(lambda: deployment.rows(complete))
        bodies = solve(deployment)
        lines: list[str] = []
        assert verify(deployment.settings, allow_open=False, tell=lines.append), lines
    sizes = [len(body) for body in bodies]
    messages = [decode(body) for body in bodies]
    assert PrefixMissing in map(type, messages), "workers that started in the middle knew nothing"
    scorings = [len(body) for body, message in zip(bodies, messages, strict=True) if isinstance(message, ScoreSteps)]
    assert max(scorings) > WHOLE_BYTES / 3, "they got it"
    assert sum(sizes) / len(sizes) < WHOLE_BYTES / 4, "most commands carry the end of the prefix alone"
