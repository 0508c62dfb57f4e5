"""A server becomes unreachable during work and returns: nothing is lost, dead-lettered or restarted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chaos.deployment import Deployment, deployed
from chaos.proxy import Proxy

pytestmark = pytest.mark.servers

PROBLEMS = 12
STEPS = 6
SCRIPT = {
    "default": [
        {"small": f"Step {index} as drafted.", "large": f"Step {index} as it should be.",
         "score": 0.1 if index == 2 else 0.9, "small_ms": 50, "large_ms": 50}
        for index in range(STEPS)
    ]
}  # fmt: skip


def begin(deployment: Deployment, *, lookahead: int) -> list[str]:
    """Submit problems and wait until they are in the middle of it."""
    ids = deployment.submit(PROBLEMS, lookahead=lookahead, step_timeout_s=5, max_attempts=10)
    deployment.until(lambda: len(deployment.rows("SELECT 1 FROM steps")) >= PROBLEMS)
    assert any(row["status"] == "running" for row in deployment.problems(ids)), "too late"
    return ids


def check_solved(deployment: Deployment, ids: list[str]) -> None:
    rows = deployment.finish(ids)
    assert {row["status"] for row in rows} == {"succeeded"}
    for each in ids:
        assert [(index, author) for index, author, _ in deployment.trajectory(each)] == [
            (index, "large" if index == 2 else "small") for index in range(STEPS)
        ]
    assert len(deployment.rows("SELECT 1 FROM decisions")) == PROBLEMS * STEPS
    assert set(deployment.dead_letters().values()) == {0}
    deployment.roles.check()


def test_problems_are_solved_after_an_outage_of_the_broker(tmp_path: Path, database_url: str, broker_url: str) -> None:
    with (
        Proxy(broker_url) as proxy,
        deployed(
            tmp_path, database_url=database_url, broker_url=proxy.url, script=SCRIPT, visibility_timeout_s="2"
        ) as deployment,
    ):
        ids = begin(deployment, lookahead=4)
        proxy.cut()
        deployment.until(lambda: "broker_unavailable" in deployment.log("orchestrator"))
        deployment.until(lambda: "publication_failed" in deployment.log("small"))
        proxy.mend()
        check_solved(deployment, ids)


def test_problems_are_solved_after_an_outage_of_the_database(
    tmp_path: Path, database_url: str, rabbitmq_server: str
) -> None:
    with (
        Proxy(database_url) as proxy,
        deployed(tmp_path, database_url=proxy.url, broker_url=rabbitmq_server, script=SCRIPT) as running,
    ):
        deployment = replace(running, database_url=database_url)
        ids = begin(deployment, lookahead=0)
        proxy.cut()
        deployment.until(lambda: deployment.log("orchestrator").count("events_held") > 3)
        assert "server_awaited" in deployment.log("orchestrator"), "the sweeper waits as well"
        proxy.mend()
        check_solved(deployment, ids)
        assert deployment.log("orchestrator").count("orchestrator_started") == 1


def test_problems_are_solved_after_an_outage_of_a_database_that_is_also_the_broker(
    tmp_path: Path, database_url: str
) -> None:
    with (
        Proxy(database_url) as proxy,
        deployed(
            tmp_path, database_url=proxy.url, broker_url=proxy.url.replace("postgresql", "pgmq", 1), script=SCRIPT,
            visibility_timeout_s="2",
        ) as running,
    ):  # fmt: skip
        deployment = replace(running, database_url=database_url)
        ids = begin(deployment, lookahead=0)
        proxy.cut()
        deployment.until(lambda: "unavailable" in deployment.log("orchestrator"))
        deployment.until(lambda: "publication_failed" in deployment.log("small"))
        proxy.mend()
        check_solved(deployment, ids)
