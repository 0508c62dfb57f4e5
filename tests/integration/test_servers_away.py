"""Every model's server fails in turn while problems run: none of them fails, and no step is bought twice for that.

The small model's server answers 503, the PRM's refuses its key, the large model's ends and starts again, and one of
three PRM workers has a wrong format all the time. With TRIM_TEST_SCENARIO=full the servers are away for minutes, with
200 problems running and 1,000 queued. That takes a quarter of an hour; `-s` prints the report.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from chaos.deployment import PATIENCE_S, Deployment, deployed
from migrations.verifying import verify
from shared.domain.roles import WorkerRole
from stack.roles import ROLES
from tests.integration.model_servers import (
    STEPS,
    TOKENS,
    ModelServer,
    is_doubted,
    model_servers,
    question,
    settings_for,
)

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]

SMALL, LARGE, PRM = WorkerRole.SMALL, WorkerRole.LARGE, WorkerRole.PRM
WRONG = "prm-wrong-format"
PRM_WORKERS = {"prm-2": ROLES[PRM], WRONG: ROLES[PRM]}
BATCH = 500


@dataclass(frozen=True)
class Scale:
    """How many problems, how fast, and how long the servers are away."""

    problems: int
    window: int
    concurrency: int
    takes_s: Mapping[WorkerRole, float]
    """Seconds that a model takes for a step."""
    away_s: Mapping[WorkerRole, float]
    """Seconds that a server is away at least; it is away until problems wait for it in any case."""
    in_flight: int = 1
    """Number of calls that a server is working on at least when it leaves."""
    between_s: float = 0.0
    """Seconds before a server leaves."""
    patience_s: float = PATIENCE_S


SHORT = Scale(
    problems=60, window=12, concurrency=4, takes_s={SMALL: 0.05, LARGE: 0.05, PRM: 0.02},
    away_s={SMALL: 0, PRM: 0, LARGE: 0},
)  # fmt: skip
FULL = Scale(
    problems=1200, window=200, concurrency=100, takes_s={SMALL: 4, LARGE: 6, PRM: 1},
    away_s={SMALL: 120, PRM: 180, LARGE: 300}, in_flight=10, between_s=20, patience_s=900,
)  # fmt: skip
SCALE = FULL if os.environ.get("TRIM_TEST_SCENARIO") == "full" else SHORT


LEDGER = {
    SMALL: ["small_kept", "small_discarded", "small_wasted"], LARGE: ["large_out", "large_wasted"], PRM: ["prm_tokens"]
}  # fmt: skip
MOVES = {
    "a problem started": "problems.started_at",
    "a step was accepted": "steps.accepted_at",
    "a problem ended": "problems.finished_at",
}
"""What shows that problems go on: a column of a table."""


@dataclass(frozen=True)
class Away:
    """A server that was away."""

    role: WorkerRole
    in_flight: int
    """Number of calls that it was working on when it left."""
    waiting: int
    """Number of problems that waited for it in the end."""
    queued: int
    until: datetime


def count(deployment: Deployment, condition: str, *parameters: object) -> int:
    [row] = deployment.rows(f"SELECT count(*) AS problems FROM problems WHERE {condition}", *parameters)
    return int(row["problems"])


def take_away(deployment: Deployment, server: ModelServer, leave: Callable[[], None], code: str) -> Away:
    """Have a server leave, bring it back once problems wait for it, and return once the queue moves."""
    role = server.role
    time.sleep(SCALE.between_s)
    deployment.until(lambda: server.in_flight >= SCALE.in_flight)
    in_flight, ends_at = server.in_flight, time.monotonic() + SCALE.away_s[role]
    leave()
    unfit = "SELECT unfit_code FROM processes WHERE role = %s AND name <> %s"
    deployment.until(lambda: {row["unfit_code"] for row in deployment.rows(unfit, role, WRONG)} == {code})
    waits = "status = 'running' AND due_at IS NULL AND absences ? %s"
    deployment.until(lambda: count(deployment, waits, role) and time.monotonic() > ends_at, patience_s=SCALE.patience_s)
    waiting, queued = count(deployment, waits, role), count(deployment, "status = 'queued'")
    assert queued, "the queue is empty too early"
    [now] = deployment.rows("SELECT now() AS at")
    server.recover()
    deployment.until(lambda: count(deployment, "started_at > %s", now["at"]))
    return Away(role, in_flight, waiting, queued, now["at"])


def is_drafted_ahead(number: int) -> bool:
    return number % 4 == 1


def submit(deployment: Deployment) -> list[str]:
    problems = [
        {"question": question(number), "lookahead": 3 * is_drafted_ahead(number)} for number in range(SCALE.problems)
    ]
    batches = [problems[start : start + BATCH] for start in range(0, len(problems), BATCH)]
    return [each for batch in batches for each in deployment.submit_all(batch)]


def booked(rows: list[dict[str, Any]], role: WorkerRole) -> int:
    """Sum up the tokens of a model that the ledgers have."""
    return sum(row[column] for row in rows for column in LEDGER[role])


def report(
    deployment: Deployment, servers: Mapping[WorkerRole, ModelServer], rows: list[dict[str, Any]],
    absences: list[Away],
) -> str:  # fmt: skip
    """Describe what was bought, and how long it took to go on."""
    steps = sum(row["step_count"] for row in rows)
    lines = ["", f"problems: {dict(Counter(row['status'] for row in rows))}, with {steps} steps"]
    for role, server in servers.items():
        lines.append(
            f"{role}: {server.begun.total()} calls begun, {server.answered} answered, {server.lost} lost,"
            f" {server.twice} begun twice, {booked(rows, role)} tokens booked"
        )
    for each in absences:
        took = [f"{what} after {_seconds_until(deployment, at, each.until):.1f} s" for what, at in MOVES.items()]
        lines.append(
            f"{each.role} away: {each.in_flight} calls in flight, {each.waiting} problems waited, {each.queued} were"
            f" queued; {', '.join(took)}"
        )
    return "\n".join(lines)


def _seconds_until(deployment: Deployment, moved: str, since: datetime) -> float:
    table, column = moved.split(".")
    query = f"SELECT extract(epoch FROM min({column}) - %s) AS seconds FROM {table} WHERE {column} > %s"
    return float(deployment.rows(query, since, since)[0]["seconds"])


def check(
    deployment: Deployment, servers: Mapping[WorkerRole, ModelServer], rows: list[dict[str, Any]], told: str
) -> None:
    """Check that all problems are solved, that only lost calls were made twice, and the record."""
    assert {(row["status"], row["attempts"], row["step_count"]) for row in rows} == {("succeeded", 0, STEPS)}, told
    for number, row in enumerate(rows):
        assert is_drafted_ahead(number) or row["request_count"] == STEPS + is_doubted(number), told
    for role, server in servers.items():
        assert server.twice == server.lost, told
        assert booked(rows, role) == server.answered * TOKENS[role], told
    assert set(deployment.dead_letters().values()) == {0}
    lines: list[str] = []
    assert verify(deployment.settings, allow_open=False, tell=lines.append), lines


@pytest.mark.parametrize("broker_url", ["rabbitmq", "pgmq"], indirect=True)
def test_no_problem_fails_and_no_step_is_bought_twice_while_servers_come_and_go(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    with (
        model_servers(SCALE.takes_s) as servers,
        deployed(
            tmp_path, database_url=database_url, broker_url=broker_url, script={}, **settings_for(servers),
            more_roles=PRM_WORKERS, own={WRONG: {"prm_format": "skywork"}}, window=str(SCALE.window),
            concurrency=str(SCALE.concurrency), visibility_timeout_s="300",
        ) as deployment,
    ):  # fmt: skip
        ids = submit(deployment)
        deployment.until(lambda: deployment.rows("SELECT 1 FROM steps LIMIT 1"))
        absences = [
            take_away(deployment, servers[SMALL], lambda: servers[SMALL].refuse(503), "engine_unavailable"),
            take_away(deployment, servers[PRM], lambda: servers[PRM].refuse(401), "access_denied"),
            take_away(deployment, servers[LARGE], servers[LARGE].leave, "engine_unavailable"),
        ]
        rows = deployment.finish(ids, patience_s=SCALE.patience_s)
        print(told := report(deployment, servers, rows, absences))  # noqa: T201 - the figures of the full run
        check(deployment, servers, rows, told)
        wrong = "SELECT 1 FROM processes WHERE name = %s AND unfit_code = 'bad_scores'"
        deployment.until(lambda: deployment.rows(wrong, f"{WRONG}-0"))  # at its next probe, it was refused too
        deployment.roles.check()
