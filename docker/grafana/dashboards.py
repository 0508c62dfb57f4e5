"""Writes Grafana's dashboards from the panels that this file lists (`make dashboards`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${source}"}
PER_SECOND = "suffix: /s"
TOKENS_PER_SECOND = "suffix: tokens/s"

Panel = dict[str, Any]


def panel(
    kind: str,
    title: str,
    unit: str,
    queries: Mapping[str, str],
    *,
    size: tuple[int, int],
    note: str = "",
    defaults: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    target: Mapping[str, Any] | None = None,
) -> Panel:
    """Describe one panel; queries are expressions by legend, size is width and height on a grid of 24 columns."""
    targets = [
        {"datasource": SOURCE, "refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend, **(target or {})}
        for index, (legend, expr) in enumerate(queries.items())
    ]
    return {
        "type": kind,
        "title": title,
        **({"description": note} if note else {}),
        "datasource": SOURCE,
        "gridPos": {"x": 0, "y": 0, "w": size[0], "h": size[1]},
        "fieldConfig": {"defaults": {"unit": unit, **(defaults or {})}, "overrides": []},
        "options": dict(options or {}),
        "targets": targets,
    }


def graph(
    title: str, unit: str, queries: Mapping[str, str], *, width: int = 8, stacked: bool = False, note: str = ""
) -> Panel:
    """Describe a graph over time; units that are shares end at 100 %."""
    lines = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    stack = {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}} if stacked else {}
    highest = {"max": 1} if unit == "percentunit" else {}
    return panel(
        "timeseries", title, unit, queries, size=(width, 8), note=note,
        defaults={"min": 0, **highest, "custom": {**lines, **stack}},
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )  # fmt: skip


def figure(title: str, unit: str, expr: str, *, red_from: float | None = None, note: str = "") -> Panel:
    """Describe one number as it is now, red from a value on."""
    steps: list[dict[str, Any]] = [{"value": None, "color": "text"}]
    if red_from is not None:
        steps.append({"value": red_from, "color": "red"})
    return panel(
        "stat", title, unit, {"": expr}, size=(4, 4), note=note, target={"instant": True},
        defaults={"noValue": "0", "thresholds": {"mode": "absolute", "steps": steps}},
        options={"graphMode": "none", "colorMode": "value", "reduceOptions": {"calcs": ["lastNotNull"]}},
    )  # fmt: skip


def heatmap(title: str, buckets: str, *, width: int = 8, note: str = "") -> Panel:
    """Describe the distribution of a histogram over time."""
    return panel(
        "heatmap", title, "short", {"{{le}}": buckets}, size=(width, 8), note=note, target={"format": "heatmap"},
        options={"calculate": False, "color": {"mode": "scheme", "scheme": "Blues", "steps": 64}},
    )  # fmt: skip


def quantiles(metric: str, labels: str = "", *, by: str = "", legend: str = "") -> dict[str, str]:
    """Write the queries for median and 90th percentile of a histogram."""
    rates = f"sum by ({by + ', ' if by else ''}le) (rate({metric}_bucket{labels}[$__rate_interval]))"
    return {f"{legend} p{q}".strip(): f"histogram_quantile(0.{q}, {rates})" for q in (50, 90)}


def rate(metric: str, by: str, labels: str = "") -> str:
    """Write the query for a counter's rate."""
    return f"sum by ({by}) (rate({metric}{labels}[$__rate_interval]))"


def shadow_share(outcome: str, of: str) -> str:
    """Write the query for the share of one outcome; the sum with 0 keeps policies that never have it."""
    part, whole = (rate("trim_shadow_decisions_total", "policy", f'{{outcome=~"{each}"}}') for each in (outcome, of))
    return f"({part} or 0 * {whole}) / {whole}"


OVERVIEW = [
    figure("Alerts", "short", 'count(ALERTS{alertstate="firing"})', red_from=1, note="Alerts that fire now."),
    figure("Running", "short", 'max(trim_problems{status="running"})'),
    figure("Queued", "short", 'max(trim_problems{status="queued"})'),
    figure("Solved in an hour", "short", 'sum(increase(trim_problem_seconds_count{status="succeeded"}[1h]))'),
    figure(
        "Failed or expired",
        "percentunit",
        'sum(rate(trim_problem_seconds_count{status=~"failed|expired"}[15m]))'
        ' / sum(rate(trim_problem_seconds_count{status!="cancelled"}[15m]))',
        red_from=0.05,
        note="Share of the problems that ended in the last 15 minutes.",
    ),
    figure("Large tokens in an hour", "short", "trim_large_tokens:increase1h", note="Decoded, wasted ones included."),
    graph(
        "Problems that end",
        PER_SECOND,
        {"{{status}}": rate("trim_problem_seconds_count", "status")},
        width=6,
        stacked=True,
    ),
    graph(
        "Problems in the service",
        "short",
        {"{{status}}": "max by (status) (trim_problems)", "window": "max(trim_admission_window)"},
        width=6,
        note="Queued problems wait until fewer than the window are running.",
    ),
    graph(
        "Problems that wait for a role",
        "short",
        {"{{role}}": "max by (role) (trim_problems_waiting)"},
        width=6,
        note="Running problems whose role has no fit worker. They lose no attempt, and go on when it has one.",
    ),
    graph(
        "Failures",
        PER_SECOND,
        {"{{reason}}": rate("trim_problems_ended_total", "reason", '{status=~"failed|expired"}')},
        width=6,
        note="By the code of the failure; the glossary explains the codes.",
    ),
    graph(
        "Time to a solution",
        "s",
        quantiles("trim_problem_seconds", '{status="succeeded"}'),
        note="From submission to the end, of problems that succeeded.",
    ),
    graph("Time in the queue", "s", quantiles("trim_problem_queued_seconds"), note="From submission to the start."),
    graph("Steps", PER_SECOND, {"{{author}}": rate("trim_steps_total", "author")}, stacked=True),
    graph("Escalation rate", "percentunit", {"{{policy}}": "policy:trim_escalations:ratio_rate1h"}, note="By policy."),
    graph(
        "Large tokens",
        TOKENS_PER_SECOND,
        {"{{kind}}": 'kind:trim_tokens:rate5m{kind=~"large_out|large_wasted"}'},
        stacked=True,
    ),
    graph(
        "Written by the large model",
        "percentunit",
        {"share": "trim_large_out:ratio_rate1h"},
        note="Share of the tokens in solutions.",
    ),
    graph("Requests", PER_SECOND, {"{{status}}": rate("trim_http_requests_total", "status")}, stacked=True),
    graph(
        "Time of a request (p90)",
        "s",
        {"{{method}} {{route}}": quantiles("trim_http_request_seconds", by="method, route")["p90"]},
        note="Without requests that wait for a solution (wait_s).",
    ),
    graph("Ready processes", "short", {"{{job}}": "sum by (job) (trim_ready)"}),
]

STAGES = [
    graph(
        "Waiting for a worker",
        "s",
        {
            "{{stage}} p50": "stage:trim_stage_wait_seconds:p50_rate5m",
            "{{stage}} p90": "stage:trim_stage_wait_seconds:p90_rate5m",
        },
        note="From the publication of a command to its start. If it grows, add workers of the stage.",
    ),
    graph(
        "Working",
        "s",
        {
            "{{stage}} p50": 'stage:trim_stage_work_seconds:p50_rate5m{stage!="events"}',
            "{{stage}} p90": 'stage:trim_stage_work_seconds:p90_rate5m{stage!="events"}',
        },
        note="Time that the engine spends on a command. If it grows, the engines are full or the steps longer.",
    ),
    graph(
        "Commands that end",
        PER_SECOND,
        {"{{role}} {{outcome}}": rate("trim_commands_total", "role, outcome")},
    ),
    graph("Ready in queues", "short", {"{{queue}}": 'queue:trim_messages_ready:max{queue!~".+dead"}'}),
    graph(
        "Unacknowledged in queues",
        "short",
        {"{{queue}}": 'max by (queue) (rabbitmq_detailed_queue_messages_unacked{queue=~"[^.]+\\\\.[^.]+"})'},
        note="Commands that workers run or have prefetched, and events that orchestrators apply.",
    ),
    graph("Consumers of queues", "short", {"{{queue}}": 'queue:trim_consumers:max{queue!~".+dead"}'}),
    graph(
        "Running commands",
        "short",
        {
            "{{role}} running": "sum by (role) (trim_commands_running)",
            "{{role}} limit": "sum by (role) (trim_concurrency)",
        },
    ),
    graph(
        "Used share of a batch",
        "percentunit",
        {
            "{{role}}": "sum by (role) (rate(trim_batch_occupancy_sum[$__rate_interval]))"
            " / sum by (role) (rate(trim_batch_occupancy_count[$__rate_interval]))"
        },
        note="Embedded engines. Near 100 %, another worker helps; near 0 %, one fewer does.",
    ),
    graph(
        "Input found in the prefix cache",
        "percentunit",
        {"{{role}}": "role:trim_engine_cached_tokens:ratio_rate30m"},
    ),
    graph(
        "Tokens of the engines",
        TOKENS_PER_SECOND,
        {"{{role}} {{kind}}": 'role_kind:trim_engine_tokens:rate5m{kind=~"decoded|scored"}'},
    ),
    graph(
        "Healthy engines",
        "short",
        {
            "{{role}} healthy": "sum by (role) (trim_engine_healthy)",
            "{{role}} all": "count by (role) (trim_engine_healthy)",
        },
    ),
    graph(
        "Memory",
        "percentunit",
        {"{{job}} {{instance}}": "trim_memory_used_bytes / trim_memory_limit_bytes"},
        note="Share of the container's limit.",
    ),
    graph(
        "vLLM: requests that wait",
        "short",
        {"{{job}} {{instance}}": "sum by (job, instance) (vllm:num_requests_waiting)"},
        note="vLLM's scheduler holds them until its cache has room.",
    ),
    graph(
        "vLLM: used share of the KV cache",
        "percentunit",
        {"{{job}} {{instance}}": "max by (job, instance) (vllm:kv_cache_usage_perc)"},
    ),
    graph(
        "Start of an engine",
        "s",
        {"{{role}}": "max by (role) (trim_engine_start_seconds)"},
        note="Loading and warm-up, of the slowest that runs.",
    ),
]

DECISIONS = [
    graph("Escalation rate", "percentunit", {"{{policy}}": "policy:trim_escalations:ratio_rate1h"}, note="By policy."),
    graph(
        "Decisions", PER_SECOND, {"{{policy}} {{action}}": rate("trim_decisions_total", "policy, action")}, stacked=True
    ),
    graph(
        "Reasons",
        PER_SECOND,
        {"{{reason}}": rate("trim_decisions_total", "reason")},
        stacked=True,
        note="The glossary explains them.",
    ),
    heatmap(
        "PRM scores",
        "sum by (le) (increase(trim_prm_score_bucket[$__rate_interval]))",
        width=16,
        note="Number of scores by their value.",
    ),
    graph(
        "Distance from the scores of a day ago",
        "percentunit",
        {"distance": "max(abs(le:trim_prm_score:share_rate1h - le:trim_prm_score:share_rate1h offset 1d))"},
        note="Greatest difference of the cumulative distributions. An alert fires above 15 %.",
    ),
    graph("Shadows: escalation rate", "percentunit", {"{{policy}}": shadow_share("escalate", "accept|escalate")}),
    graph(
        "Shadows that were skipped",
        "percentunit",
        {"{{policy}}": shadow_share("skipped", ".+")},
        note="Mostly for lack of time: TRIM_SHADOW_TIME_MS.",
    ),
    graph(
        "Tokens",
        TOKENS_PER_SECOND,
        {"{{kind}}": 'kind:trim_tokens:rate5m{kind!~".+estimated"}'},
        stacked=True,
        note="By column of the ledger.",
    ),
]

ORCHESTRATOR = [
    graph("Events", PER_SECOND, {"{{kind}}": rate("trim_events_total", "kind")}, stacked=True),
    graph("Events in a transaction", "short", quantiles("trim_batch_events")),
    graph(
        "Time of a transaction",
        "s",
        {
            "p50": 'stage:trim_stage_work_seconds:p50_rate5m{stage="events"}',
            "p90": 'stage:trim_stage_work_seconds:p90_rate5m{stage="events"}',
        },
        note="If it grows while its events do not, look at the database.",
    ),
    graph("Events that wait", "short", {"{{queue}}": 'queue:trim_messages_ready:max{queue=~"[^.]+\\\\.events"}'}),
    graph(
        "Swept",
        PER_SECOND,
        {"{{action}}": rate("trim_swept_total", "action")},
        note="`repeated`: steps that were overdue and requested again.",
    ),
    graph("Time of a sweep", "s", quantiles("trim_sweep_seconds")),
    graph(
        "Dead letters",
        "short",
        {"{{queue}}": 'queue:trim_messages_ready:max{queue=~".+dead"}'},
        note="Messages that lie in the dead-letter queues.",
    ),
    graph(
        "New dead letters",
        PER_SECOND,
        {"{{queue}}": rate("trim_dead_letters_total", "queue")},
        note="Unusable for workers or orchestrators. RabbitMQ adds those that were delivered too often.",
    ),
    graph("Failed publications", PER_SECOND, {"{{job}}": rate("trim_publication_failures_total", "job")}),
    graph(
        "Processor time",
        "short",
        {"{{instance}}": 'rate(process_cpu_seconds_total{job="orchestrator"}[$__rate_interval])'},
        note="Cores. A process uses about one at most; near it, add an orchestrator.",
    ),
    graph(
        "Warnings and errors in logs",
        PER_SECOND,
        {"{{job}} {{level}}": rate("trim_log_lines_total", "job, level", '{level=~"warning|error|critical"}')},
    ),
    graph("Calls of engines", PER_SECOND, {"{{role}}": rate("trim_calls_total", "role")}),
]

DASHBOARDS = {
    "trim-overview": ("TRIM overview", OVERVIEW),
    "trim-stages": ("Stages and workers", STAGES),
    "trim-decisions": ("Decisions", DECISIONS),
    "trim-orchestrator": ("Orchestrator", ORCHESTRATOR),
}


def arranged(panels: Sequence[Panel]) -> list[Panel]:
    """Number the panels, and place them in rows from left to right."""
    placed, x, y = [], 0, 0
    for number, each in enumerate(panels, start=1):
        place = each["gridPos"]
        placed.append({"id": number, **each, "gridPos": {**place, "x": x, "y": y}})
        x += place["w"]
        if x >= 24:  # noqa: PLR2004 - the columns of Grafana's grid
            x, y = 0, y + place["h"]
    return placed


def dashboard(uid: str, title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """Describe a dashboard, with links to the others."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["trim"],
        "schemaVersion": 41,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [{"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}],
        },
        "links": [
            {"title": "TRIM", "type": "dashboards", "tags": ["trim"], "asDropdown": False, "keepTime": True,
             "includeVars": True, "targetBlank": False, "icon": "", "tooltip": "", "url": ""},
        ],
        "panels": arranged(panels),
    }  # fmt: skip


def main(folder: Path = FOLDER) -> None:
    """Write each dashboard to a file that is named for its uid."""
    for uid, (title, panels) in DASHBOARDS.items():
        content = json.dumps(dashboard(uid, title, panels), indent=1)
        (folder / f"{uid}.json").write_text(f"{content}\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
