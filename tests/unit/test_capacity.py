"""The model of the capacity: its numbers by hand, how they move, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bench.capacity.costs import FILE, BadCosts, Cost, Costs, Measured, RowBytes, read, write
from bench.capacity.fitting import errors, fit
from bench.capacity.inputs import BadInput, Engine, Engines, Workload
from bench.capacity.loads import Load, script
from bench.capacity.model import BATCH_EVENTS, Margins, batch_size, cpu_ms_per_step, max_events_per_s, plan
from bench.capacity.plans import Plan
from bench.capacity.table import number
from shared.errors import explain

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations" / "capacity.md").read_text()

COSTS = Costs(
    orchestrator=Cost(unit_ms=0.4, group_ms=2.0, kb_ms=0.0),
    postgres=Cost(unit_ms=0.1, group_ms=1.0, kb_ms=0.0),
    rabbitmq=Cost(unit_ms=0.2, group_ms=0.8, kb_ms=0.01),
    worker=Cost(unit_ms=0.1, group_ms=0.5, kb_ms=0.0),
    broker_gather_ms=0.0,
    worker_gather_ms=2.0,
    idle_orchestrator_cores=0.01,
    idle_worker_cores=0.001,
    idle_broker_cores=0.02,
    hop_ms=1.0,
    submission_ms=4.0,
    read_ms=2.0,
    wal_event_bytes=2000,
    wal_transaction_bytes=1000,
    wal_text_bytes=2,
    step_row=RowBytes(fixed=100, text=1),
    decision_row=RowBytes(fixed=800, text=1),
    problem_row=RowBytes(fixed=3000, text=2),
    inbox_row=RowBytes(fixed=100, text=0),
    inbox_rows_per_event=2,
    generate_bytes=500,
    score_bytes=600,
    scored_bytes=700,
    generated_bytes=500,
    orchestrator_broker_connections=4,
    worker_broker_connections=3,
)
"""Round numbers, so that a plan can be computed by hand."""

WORKLOAD = Workload(step_tokens=50, problem_steps=11, question_tokens=150, bytes_per_token=4, escalated=0.2)
ENGINES = Engines(
    small=Engine(tokens_per_s=3200, concurrency=64),  # 50 tokens in 1 s
    prm=Engine(tokens_per_s=1360, concurrency=4),  # 68 tokens in 200 ms
    large=Engine(tokens_per_s=250, concurrency=10),  # 50 tokens in 2 s
)
PLAIN = Margins(headroom=0)


def planned(small_gpus: int = 1, *, margins: Margins = PLAIN, **changed: Any) -> Plan:
    workload = replace(WORKLOAD, **changed)
    return plan(small_gpus, workload=workload, engines=ENGINES, costs=COSTS, margins=margins)


def test_a_plan_is_what_one_computes_by_hand() -> None:
    one = planned()
    steps = 64 / 1.001  # each slot writes a step in 1 s and waits 1 ms for its next command
    assert one.work.steps_per_s == pytest.approx(steps)
    assert one.work.problems_per_s == pytest.approx(steps / 11)
    # A score needs 50 tokens of the draft, 10 of a large step before it, and half a block of 16.
    assert one.other_gpus.prm_tokens_per_s == pytest.approx(steps * 68)
    assert one.other_gpus.prm == 4  # 4,348 / 1,360
    assert one.other_gpus.large_tokens_per_s == pytest.approx(steps * 0.2 * 50)
    assert one.other_gpus.large == 3  # 639 / 250
    assert one.orchestrators.events_per_s == pytest.approx(steps * 1.2)
    assert one.broker.messages_per_s == pytest.approx(steps * 3.4)
    # Question and 5 steps: 1,600 bytes; a step: 200. Commands 2,100 and 2,400, event 900; escalated 2,100 and 700.
    assert one.broker.mb_per_s == pytest.approx(steps * (2100 + 2400 + 900 + 0.2 * (2100 + 700)) / 1e6)
    assert one.broker.connections == 4 + 3 * (1 + 4 + 3)
    batch = one.orchestrators.events_per_transaction
    assert one.orchestrators.count == 1
    assert one.orchestrators.cores == pytest.approx(steps * 1.2 * (0.4 + 2.0 / batch) / 1000 + 0.01)
    assert one.database.cores == pytest.approx(steps * 1.2 * (0.1 + 1.0 / batch) / 1000)
    assert one.broker.cores == pytest.approx(
        (steps * 3.4 * (0.2 + 0.8) + one.broker.mb_per_s * 1000 * 0.01) / 1000 + 0.02
    )
    joined = 1 + steps * 4.4 / 8 * 0.002  # each of the 8 workers handles an eighth of the messages
    assert one.worker_cores == pytest.approx(steps * 4.4 * (0.1 + 0.5 / joined) / 1000 + 8 * 0.001)
    assert one.database.connections == 11 + 21
    assert one.database.kept_gb_per_day == pytest.approx(steps * (300 + 1000 + (3000 + 2 * 600) / 11) * 86_400 / 1e9)
    assert one.database.inbox_gb == pytest.approx(steps * 1.2 * 2 * 100 * 86_400 / 1e9)
    assert one.database.wal_mb_per_s == pytest.approx(steps * (1.2 * (2000 + 1000 / batch) + 2 * 200) / 1e6)
    assert one.apis.cores == pytest.approx(steps / 11 * (4 + 2 * 2) / 1000)


def test_the_window_is_that_of_littles_law_and_a_margin() -> None:
    one = planned()
    busy_s = (one.orchestrators.events_per_transaction * 0.5 + 3.0 + 1.0) / 1000
    step_s = 1.001 + (0.2 + 0.001 + busy_s) + 0.2 * (2.0 + 0.002 + busy_s)
    assert one.work.step_seconds == pytest.approx(step_s)
    assert one.work.window == math.ceil(one.work.steps_per_s * step_s * 1.2)


def test_with_lookahead_the_small_model_waits_after_an_escalation_only_and_drafts_more() -> None:
    one, ahead = planned(), planned(lookahead=4)
    assert planned(lookahead=4, escalated=0).work.step_seconds == pytest.approx(1.001)
    assert WORKLOAD.drafts == 1
    assert replace(WORKLOAD, lookahead=4).drafts == pytest.approx(1 + 0.2 * 4)
    assert replace(WORKLOAD, lookahead=4, drafts_per_step=1.25).drafts == 1.25
    assert ahead.work.steps_per_s == pytest.approx(one.work.steps_per_s / 1.8)


def test_a_prm_without_its_cache_computes_the_whole_prefix() -> None:
    uncached = replace(ENGINES, is_prm_cached=False)
    assert uncached.score_tokens(WORKLOAD) == 150 + 50 * 5 + 50
    assert ENGINES.score_tokens(WORKLOAD) == 68


def test_ten_times_the_gpus_are_ten_times_the_work() -> None:
    one, ten = planned(10), planned(100)
    assert ten.work.steps_per_s == pytest.approx(10 * one.work.steps_per_s)
    assert ten.broker.mb_per_s == pytest.approx(10 * one.broker.mb_per_s)
    assert ten.database.kept_gb_per_day == pytest.approx(10 * one.database.kept_gb_per_day)
    assert 9 * one.other_gpus.large < ten.other_gpus.large <= 10 * one.other_gpus.large


@pytest.mark.parametrize("gpus", [1, 3, 10, 100])
def test_more_gpus_never_need_less(gpus: int) -> None:
    def needed(plan: Plan) -> list[float]:
        # CPU time and write-ahead log are left out: transactions grow with the load, and large ones cost less.
        database = [plan.database.connections, plan.database.kept_gb_per_day, plan.database.inbox_gb]
        workers = [plan.other_gpus.prm, plan.other_gpus.large]
        broker = [plan.broker.messages_per_s, plan.broker.mb_per_s, plan.broker.connections]
        return [plan.work.window, plan.orchestrators.count, *workers, *broker, *database, plan.apis.count]

    assert all(a <= b for a, b in zip(needed(planned(gpus)), needed(planned(gpus + 1)), strict=True))
    assert planned(gpus).work.steps_per_s < planned(gpus + 1).work.steps_per_s


def test_more_escalations_need_more_large_gpus_and_longer_steps_fewer_messages() -> None:
    assert planned(10, escalated=0.4).other_gpus.large > planned(10).other_gpus.large
    assert planned(10, escalated=0).other_gpus.large == 0
    longer = planned(10, step_tokens=100)
    assert longer.broker.messages_per_s < planned(10).broker.messages_per_s
    assert longer.other_gpus.large_tokens_per_s == pytest.approx(planned(10).other_gpus.large_tokens_per_s, rel=0.01)


def test_headroom_adds_gpus_orchestrators_and_apis_but_no_work() -> None:
    tight, roomy = planned(100), planned(100, margins=Margins(headroom=0.5))
    assert roomy.work.steps_per_s == tight.work.steps_per_s
    assert roomy.other_gpus.prm > tight.other_gpus.prm
    assert roomy.other_gpus.large > tight.other_gpus.large
    assert roomy.orchestrators.count > tight.orchestrators.count
    assert roomy.apis.count > tight.apis.count


def test_transactions_hold_one_event_when_idle_and_no_more_than_the_maximum_when_busy() -> None:
    assert batch_size(1, WORKLOAD, COSTS) == pytest.approx(1, abs=0.01)
    sizes = [batch_size(rate, WORKLOAD, COSTS) for rate in (1, 100, 400, 1000, 10_000)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == BATCH_EVENTS
    # T(64) = 64 * 0.5 + 3 + 1 ms
    assert max_events_per_s(WORKLOAD, COSTS) == pytest.approx(64 / 0.036)


def test_one_orchestrator_serves_the_events_of_the_share_that_is_planned() -> None:
    most = max_events_per_s(WORKLOAD, COSTS)
    for gpus in (1, 20, 23, 100):
        orchestrators = planned(gpus).orchestrators
        assert orchestrators.events_per_s <= orchestrators.count * most
        assert orchestrators.events_per_s > (orchestrators.count - 1) * most
    assert planned(100, margins=Margins(orchestrators=2)).orchestrators.count == 2


def test_cpu_time_per_step_falls_as_transactions_and_groups_grow() -> None:
    def cpu_ms(events: float, rate: float) -> dict[str, float]:
        return cpu_ms_per_step(WORKLOAD, COSTS, events_per_transaction=events, steps_per_s=rate, workers=1)

    assert cpu_ms(1, 100)["orchestrator"] == pytest.approx(1.2 * 2.4)
    assert cpu_ms(64, 100)["orchestrator"] == pytest.approx(1.2 * (0.4 + 2 / 64))
    assert cpu_ms(1, 1e-6)["worker"] == pytest.approx(4.4 * 0.6)
    assert cpu_ms(1, 1e9)["worker"] == pytest.approx(4.4 * 0.1)
    assert cpu_ms(1, 100)["rabbitmq"] == cpu_ms(64, 1000)["rabbitmq"]


# Bad input


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["tokens_per_s", "concurrency"])
def test_a_speed_that_is_not_above_zero_is_refused_in_one_sentence(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=rf"^{name} is [^.]+; it must be a number (above 0|at least 1)\b.*\.$"):
        replace(ENGINES.small, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_tokens", 0),
        ("step_tokens", math.nan),
        ("problem_steps", -3),
        ("bytes_per_token", 0),
        ("question_tokens", -1),
        ("escalated", 1.5),
        ("escalated", -0.1),
        ("escalated", math.nan),
        ("lookahead", -1),
        ("drafts_per_step", 0.5),
        ("drafts_per_step", math.nan),
        ("drafts_per_step", math.inf),
    ],
)
def test_an_impossible_workload_is_refused_in_one_sentence(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=rf"^{name} is [^;]+; it must be a number [^;]+\.$"):
        replace(WORKLOAD, **{name: value})


def test_numbers_that_no_deployment_has_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^step_tokens is 1e\+308; it must be a number above 0 and at most 1e\+09\.$"):
        replace(WORKLOAD, step_tokens=1e308)
    with pytest.raises(BadInput, match=r"^small_gpus is 1e\+26; it must be a number at least 1 and at most 1e\+09\.$"):
        planned(10**26)


@pytest.mark.parametrize("margins", [{"headroom": 1}, {"headroom": -0.1}, {"reads": math.nan}, {"orchestrators": 0}])
def test_impossible_margins_are_refused(margins: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="it must be a number"):
        Margins(**margins)


def test_a_plan_needs_a_gpu() -> None:
    with pytest.raises(BadInput, match=r"^small_gpus is 0; it must be a number at least 1\.$"):
        planned(0)


# The costs


def test_the_committed_costs_can_be_read_and_name_their_origin() -> None:
    measured = read(FILE)
    assert {"date", "command", "machine", "repeats", "fit_errors", "loads"} <= set(measured.how)
    assert 0.1 < measured.costs.orchestrator.unit_ms < 10


def test_costs_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    write(Measured(costs=COSTS, how={"date": "2026-11-29"}), path)
    assert read(path) == Measured(costs=COSTS, how={"date": "2026-11-29"})


@pytest.mark.parametrize(
    "change",
    [
        {"hop_ms": None},
        {"hop_ms": math.nan},
        {"hop_ms": -1},
        {"hop_ms": True},
        {"unknown": 1},
        {"worker": {"unit_ms": 1}},
    ],
)
def test_damaged_costs_are_refused_in_one_sentence(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"costs": {**asdict(COSTS), **change}, "how": {}}))
    with pytest.raises(BadCosts, match=r"cannot be used \(.*\); write others with"):
        read(path)


def test_missing_costs_are_refused_in_a_sentence_that_gives_the_reason_once(tmp_path: Path) -> None:
    with pytest.raises(BadCosts, match="FileNotFoundError") as refused:
        read(tmp_path / "none.json")
    assert explain(refused.value).count("No such file") == 1


def test_a_fit_finds_the_factors_behind_exact_measurements() -> None:
    features = [(1, 1, 0), (1, 0.1, 1), (1, 0.01, 4), (2, 0.5, 2)]
    measured = [2 * a + 3 * b + 0.5 * c for a, b, c in features]
    factors = fit(features, measured)
    assert factors == pytest.approx([2, 3, 0.5])
    assert errors(features, measured, factors) == pytest.approx([0, 0, 0, 0])


def test_a_fit_never_has_a_negative_factor() -> None:
    factors = fit([(1, 0), (1, 1), (1, 2)], [3, 2, 1])
    assert min(factors) == 0
    assert factors[0] > 0


@pytest.mark.parametrize(("features", "measured"), [([(1, 2)], [1]), ([(1,), (1,)], [1, 0]), ([(math.nan,)], [1])])
def test_a_fit_that_cannot_be_is_refused(features: list[tuple[float, ...]], measured: list[float]) -> None:
    with pytest.raises(ValueError, match="a fit needs"):
        fit(features, measured)


# Scripted loads


def test_a_load_escalates_the_steps_that_it_names_and_its_durations_have_the_mean() -> None:
    load = Load(name="x", in_flight=1, steps=8, step_tokens=5, escalate_every=4, small_ms=600, variants=16)
    problems = script([load])["problems"]
    assert len(problems) == 16
    for steps in problems.values():
        assert [step["score"] < 0.5 for step in steps].count(True) == load.escalations == 1
        assert [len(step["small"].split()) for step in steps] == [4] * 7 + [5]
    for index in range(8):
        durations = [steps[index]["small_ms"] for steps in problems.values()]
        assert sum(durations) / 16 == pytest.approx(600)
        assert len(set(durations)) == 16


# The command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.capacity", "table", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_page_shows_what_its_first_command_prints() -> None:
    printed = run().stdout
    rows = [line.rstrip() for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    assert "\n".join(rows) in PAGE
    assert printed.splitlines()[0] in PAGE


def test_every_other_command_of_the_page_runs() -> None:
    commands = re.findall(r"^    make capacity ARGS='(.+)'$", PAGE, re.MULTILINE)
    assert commands
    for options in commands:
        assert run(*options.split()).returncode == 0, options


def test_the_page_shows_the_committed_costs_and_loads() -> None:
    measured = read(FILE)
    for part in ("orchestrator", "postgres", "rabbitmq", "worker"):
        cost: Cost = getattr(measured.costs, part)
        assert f"| {cost.unit_ms:.3f} | {cost.group_ms:.2f} | {cost.kb_ms:.4f} |" in PAGE, part
    for name, load in measured.how["loads"].items():
        cpu = load["cpu_ms_per_step"]
        workers = cpu["small"] + cpu["prm"] + cpu["large"]
        figures = (cpu["orchestrator"], workers, cpu["rabbitmq"], cpu["postgres"])
        row = " | ".join(f"{each:.2f}" for each in figures)
        assert f"| {name} | {row} | {load['steps_per_s']} |" in PAGE


def test_the_table_has_a_column_for_each_number_of_gpus() -> None:
    done = run("--small-gpus", "3", "30", "--step-tokens", "80", "--escalated", "0.1")
    assert done.returncode == 0, done.stderr
    assert "Steps of 80 tokens" in done.stdout
    [row] = [line for line in done.stdout.splitlines() if "messages/s" in line]
    three, thirty = (float(each.replace(",", "")) for each in re.findall(r"[\d,.]+", row))
    assert thirty == pytest.approx(10 * three, rel=0.01)


def test_a_bad_option_of_the_table_is_one_sentence() -> None:
    done = run("--large-tokens-per-s", "nan")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "capacity: tokens_per_s is nan; it must be a number above 0.\n"


def test_numbers_have_three_digits() -> None:
    assert [number(each) for each in (0.01234, 1.2345, 66.66, 123.4, 12345.6, 7)] == [
        "0.0123", "1.23", "66.7", "123", "12,346", "7",
    ]  # fmt: skip
