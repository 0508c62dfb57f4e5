"""Operators see the truth: metrics of a run are the database's own figures, and health follows every outage."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.deployment import PATIENCE_S, Deployment, deployed
from chaos.proxy import Proxy
from shared.observe import metrics
from stack.roles import ROLES
from stack.scratch import scratch_database
from tests.scraping import Scrape, fetch_json

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations" / "observability.md").read_text()

pytestmark = pytest.mark.servers


def step(index: int, **more: object) -> dict[str, object]:
    return {"small": f"Step {index} as drafted.", "large": f"Step {index} as it should be.", "score": 0.9, **more}


SCRIPT = {
    "default": [
        *(
            step(index, small_ms=30, large_ms=30, prm_ms=10, score=0.2 if index in (1, 4) else 0.85)
            for index in range(6)
        ),
        {"small": "The answer is \\boxed{7}.", "score": 0.9},
    ],
    "problems": {
        "Slow?": [step(index, small_ms=400) for index in range(9)],
        "No score?": [step(0, score=float("nan")), step(1, score=1.5), {"small": "So \\boxed{7}."}],
        "Nothing?": [{"small": ""}],
        "Too slow?": [step(0, small_ms=900)],
    },
}
SHADOWS = [{"name": "random", "parameters": {"p": 0.5}}, {"name": "large-only"}]
SUBMISSIONS: list[tuple[list[str], dict[str, Any]]] = [
    ([f"What is {number}?" for number in range(8)], {"lookahead": 4, "shadows": SHADOWS}),
    (["No score?", "Nothing?", "What?"], {"lookahead": "unlimited"}),
    (["What?", "What else?"], {"policy": {"name": "large-only"}}),
    (["What?", "What else?"], {"policy": {"name": "small-only"}, "lookahead": "unlimited"}),
    (["Slow?"], {"deadline_s": 1.0}),
    (["Too slow?"], {"step_timeout_s": 0.2, "max_attempts": 2}),
    (["What?"], {"policy": {"name": "cascade", "parameters": {"threshold": 0.5}}}),
]


WINDOW = 16


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: str, rabbitmq_server: str
) -> Iterator[Deployment]:
    with (
        scratch_database(postgres_server) as database_url,
        deployed(
            tmp_path_factory.mktemp("observing"), database_url=database_url, broker_url=rabbitmq_server, script=SCRIPT,
            metrics_port="0", log_format="json", window=str(WINDOW),
        ) as running,
    ):  # fmt: skip
        yield running


def scrape(deployment: Deployment, role: str) -> Scrape:
    return Scrape.of(deployment.metrics_address(role))


STORED = {
    "steps": "SELECT author AS key, count(*) AS value FROM steps GROUP BY 1",
    "decisions": "SELECT concat_ws(' ', policy, action, reason) AS key, count(*) AS value FROM decisions GROUP BY 1",
    "shadows": "SELECT concat_ws(' ', policy, coalesce(action, 'skipped')) AS key, count(*) AS value"
    " FROM shadow_decisions GROUP BY 1",
    "escalations": "SELECT 'all' AS key, sum(escalation_count) AS value FROM problems",
    "scores": "SELECT 'all' AS key, count(observation ->> 'score') AS value FROM decisions",
    "submitted": "SELECT policy AS key, count(*) AS value FROM problems GROUP BY 1",
    "ended": "SELECT concat_ws(' ', status, coalesce(stop_reason, failure_code, 'none')) AS key, count(*) AS value"
    " FROM problems WHERE finished_at IS NOT NULL GROUP BY 1",
    "durations": "SELECT status AS key, count(*) AS value FROM problems WHERE finished_at IS NOT NULL GROUP BY 1",
    "admitted": "SELECT 'all' AS key, count(started_at) AS value FROM problems",
    **{
        column: f"SELECT 'all' AS key, sum({column}) AS value FROM problems"
        for column in (*metrics.TOKEN_COLUMNS, *metrics.CALL_COLUMNS)
    },
}
"""Queries for the figures that are also counted."""


def stored(deployment: Deployment) -> dict[str, dict[str, float]]:
    return {
        name: {row["key"]: float(row["value"]) for row in deployment.rows(query) if row["value"]}
        for name, query in STORED.items()
    }


def counted(deployment: Deployment) -> dict[str, dict[str, float]]:
    found, api = scrape(deployment, "orchestrator"), scrape(deployment, "api")

    def joined(name: str, *labels: str) -> dict[str, float]:
        return {" ".join(key): value for key, value in found.by(name, *labels).items()}

    def whole(value: float) -> dict[str, float]:
        return {"all": value} if value else {}

    decisions = joined("trim_decisions_total", "policy", "action", "reason")
    return {
        "steps": found.by("trim_steps_total", "author"),
        "decisions": decisions,
        "shadows": joined("trim_shadow_decisions_total", "policy", "outcome"),
        "escalations": whole(sum(count for key, count in decisions.items() if " escalate " in key)),
        "scores": whole(found["trim_prm_score_count"]),
        "submitted": api.by("trim_problems_submitted_total", "policy"),
        "ended": joined("trim_problems_ended_total", "status", "reason"),
        "durations": found.by("trim_problem_seconds_count", "status"),
        "admitted": whole(found["trim_problem_queued_seconds_count"]),
        **{column: whole(found.sum("trim_tokens_total", kind=column)) for column in metrics.TOKEN_COLUMNS},
        **{column: whole(found.sum("trim_calls_total", role=role)) for column, role in metrics.CALL_COLUMNS.items()},
    }


def waits(deployment: Deployment, role: str) -> float:
    return scrape(deployment, role).sum("trim_stage_wait_seconds_count", stage=role)


def has_counted_waits(deployment: Deployment, role: str) -> bool:
    """Tell whether each command that was done has waited, and no more than those that ended."""
    ended = scrape(deployment, role).by("trim_commands_total", "outcome")
    # Some are cancelled before they begin.
    return 0 < ended["done"] <= waits(deployment, role) <= sum(ended.values()) - ended.get("incomplete", 0)


def test_after_a_run_with_failures_and_a_killed_worker_the_metrics_are_the_sums_over_the_database(
    deployment: Deployment,
) -> None:
    ids = [
        each
        for questions, choices in SUBMISSIONS
        for each in deployment.submit_all([{"question": question} for question in questions], **choices)
    ]
    [cancelled] = deployment.submit_all([{"question": "Slow?"}], lookahead=4)
    deployment.until(lambda: deployment.trajectory(cancelled))
    deployment.api.cancel(cancelled)
    deployment.roles.kill("small")
    deployment.roles.start("small")
    deployment.finish([*ids, cancelled])

    figures, rows = counted(deployment), stored(deployment)
    deadline = time.monotonic() + PATIENCE_S
    while figures != rows and time.monotonic() < deadline:
        time.sleep(0.2)  # Late results are still being booked.
        figures, rows = counted(deployment), stored(deployment)
    assert figures == rows
    for name in ("shadows", "escalations", "small_wasted", "small_discarded", "large_out", "prm_calls"):
        assert figures[name], f"the run has no {name}"
    assert {"cancelled none", "expired none", "failed attempts_exhausted", "failed no_output"} <= set(figures["ended"])
    found = scrape(deployment, "orchestrator")
    assert found.sum("trim_swept_total", action="admitted") == figures["admitted"]["all"]
    assert found["trim_batch_events_sum"] == found["trim_events_total"]
    for role in ("large", "prm"):
        # A command is counted after its results are published.
        deployment.until(lambda role=role: has_counted_waits(deployment, role))
        assert scrape(deployment, role).sum("trim_engine_healthy", role=role) == 1


def test_open_problems_are_read_from_the_database(deployment: Deployment) -> None:
    ids = deployment.submit_all([{"question": "Slow?"}] * (WINDOW + 3))
    deployment.until(
        lambda: scrape(deployment, "orchestrator").by("trim_problems", "status") == {"queued": 3, "running": WINDOW}
    )
    assert scrape(deployment, "orchestrator")["trim_admission_window"] == WINDOW
    for each in ids:
        deployment.api.cancel(each)
    deployment.finish(ids)


def test_every_command_of_the_page_works_as_printed(deployment: Deployment) -> None:
    [block] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    commands = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    assert len(commands) == 4
    address = deployment.metrics_address("api").removeprefix("http://")
    for command in commands:
        typed = command.replace("localhost:9464", address).replace("9464", address.rpartition(":")[2])
        typed = typed.replace("curl", "curl -f").replace("python", sys.executable)
        done = subprocess.run(["bash", "-c", typed], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{typed}\n{done.stdout}{done.stderr}"


def conditions(deployment: Deployment, role: str) -> dict[str, tuple[bool, str]]:
    """Read the conditions of a role, and check that its status fits them and that it is alive."""
    address = deployment.metrics_address(role)
    status, body = fetch_json(f"{address}/ready")
    assert body["ready"] == all(each["is_met"] for each in body["conditions"]) == (status == 200)
    status, live = fetch_json(f"{address}/live")
    assert (status, live["defects"]) == (200, [])
    return {each["name"]: (each["is_met"], each["detail"]) for each in body["conditions"]}


def unmet(deployment: Deployment, role: str) -> set[str]:
    return {name for name, (is_met, _) in conditions(deployment, role).items() if not is_met}


def test_workers_and_orchestrators_are_unready_while_the_broker_is_away_and_come_back(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    with (
        Proxy(broker_url) as proxy,
        deployed(
            tmp_path, database_url=database_url, broker_url=proxy.url, script=SCRIPT, metrics_port="0"
        ) as deployment,
    ):
        roles = [role for role in ROLES if role != "api"]
        deployment.until(lambda: not any(unmet(deployment, role) for role in roles))
        proxy.cut()
        deployment.until(lambda: all(unmet(deployment, role) == {"broker"} for role in roles))
        assert not unmet(deployment, "api")
        _, why = conditions(deployment, "small")["broker"]
        assert "TRIM_BROKER_URL" in why
        assert scrape(deployment, "small").by("trim_condition_met", "condition") == {"engine": 1}
        deployment.until(lambda: scrape(deployment, "small")["trim_publication_failures_total"] > 0)
        proxy.mend()
        deployment.until(lambda: not any(unmet(deployment, role) for role in roles))
        assert scrape(deployment, "small")["trim_ready"] == 1


def test_the_api_and_orchestrators_are_unready_while_the_database_is_away_and_come_back(
    tmp_path: Path, database_url: str, rabbitmq_server: str
) -> None:
    with (
        Proxy(database_url) as proxy,
        deployed(
            tmp_path, database_url=proxy.url, broker_url=rabbitmq_server, script=SCRIPT, metrics_port="0"
        ) as running,
    ):
        deployment = replace(running, database_url=database_url)
        roles = ["api", "orchestrator"]
        deployment.until(lambda: not any(unmet(deployment, role) for role in roles))
        proxy.cut()
        deployment.until(lambda: all(unmet(deployment, role) == {"database", "schema"} for role in roles))
        assert not unmet(deployment, "small")
        proxy.mend()
        deployment.until(lambda: not any(unmet(deployment, role) for role in roles))


def test_lines_in_json_name_the_problem_and_the_command_that_they_concern(deployment: Deployment) -> None:
    [problem_id] = deployment.submit_all([{"question": "Too slow?"}], step_timeout_s=0.2, max_attempts=1)
    deployment.finish([problem_id])
    deployment.until(lambda: f'"problem_id": "{problem_id}"' in deployment.log("orchestrator"))
    lines = [json.loads(line) for role in ("small", "orchestrator") for line in deployment.log(role).splitlines()]
    named = {line["event"]: line for line in lines if line.get("problem_id") == problem_id}
    assert {"command_failed", "problem_ended"} <= named.keys()
    assert named["command_failed"]["command_id"]
    assert named["command_failed"]["code"] == "step_timeout"
