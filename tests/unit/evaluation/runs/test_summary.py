"""The metrics of a run: those of the definitions, with intervals, failures by reason and paired differences."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evaluation.prices import Prices
from evaluation.runs.plan import Plan
from evaluation.runs.rows import DecidedRow, TrialRow
from evaluation.runs.summary import Results
from shared.domain.decisions import Action
from shared.domain.status import Status
from shared.domain.verdict import Verdict
from tests.unit.evaluation.runs.fake_service import LEDGER

LOW, HIGH = "threshold:threshold=0.3", "threshold:threshold=0.6"
PLAN = Plan(
    file="four.jsonl", digest="", problems=4, seeds=1, policies=("small-only", "large-only", LOW, HIGH), options={}
)
PRICES = Prices.model_validate(
    {"small": {"input": 0, "output": 1}, "large": {"input": 0, "output": 10}, "prm": {"input": 0}}
)


def row(policy: str, number: int, *, solved: bool, spent: int, **other: Any) -> TrialRow:
    values: dict[str, Any] = {
        "policy": policy,
        "version": None,
        "id": str(number),
        "seed": 0,
        "problem_id": f"{policy}-{number}",
        "status": Status.SUCCEEDED,
        "stop_reason": "final_answer",
        "failure": None,
        "answer": "7",
        "reference": "7",
        "verdict": Verdict.CORRECT if solved else Verdict.INCORRECT,
        "ledger": {**LEDGER, "large_out": spent, "small_kept": 5},
        "latency_s": float(number),
        "decisions": (DecidedRow(step=0, action=Action.ESCALATE if spent else Action.ACCEPT, score=0.5),),
        "waited_s": {},
        "worked_s": {},
        "models": {"small": "tiny", "large": "huge"},
    }
    return TrialRow(**{**values, **other})


ROWS = [
    *(row("small-only", number, solved=number == 0, spent=0) for number in range(4)),
    *(row("large-only", number, solved=True, spent=100) for number in range(4)),
    *(row(LOW, number, solved=number < 2, spent=40 * (number == 1)) for number in range(4)),
    *(row(HIGH, number, solved=number != 1, spent=40) for number in range(3)),
    row(
        HIGH, 3, solved=False, spent=40, status=Status.FAILED, verdict=None, failure="attempts_exhausted",
        latency_s=None, decisions=(),
    ),
]  # fmt: skip


def test_metrics_are_those_of_the_definitions() -> None:
    summary = Results(PLAN, ROWS, PRICES).summary()
    assert summary["title"] == "four.jsonl: 4 problems, 1 seed, tiny with huge"
    low = summary["policies"][2]
    values = {name: low[name]["value"] for name in ("accuracy", "large_tokens", "share", "pgr", "dibc", "cost")}
    assert values == pytest.approx(
        {"accuracy": 0.5, "large_tokens": 10, "share": 0.1, "pgr": 1 / 3, "dibc": 7 / 3, "cost": 105}
    )
    rate = low["escalation_rate"]
    assert (rate["value"], rate["low"], rate["high"]) == (0.25, 0, 0.75)
    assert low["latency_s"] == pytest.approx({"p50": 1.5, "p90": 2.7, "p99": 2.97})
    assert low["verdicts"] == {"correct": 2, "incorrect": 2}
    assert low["accuracy"]["low"] <= 0.5 <= low["accuracy"]["high"]


def test_settings_of_one_policy_form_a_curve() -> None:
    [curve] = Results(PLAN, ROWS).summary()["curves"]
    assert (curve["policy"], curve["settings"]) == ("threshold", [LOW, HIGH])
    # From (0.1, 1/3) to (0.4, 1/3) and (1, 1): the second point recovers no more than the first.
    assert curve["cpt50"]["value"] == pytest.approx(0.1 + 0.9 * (1 / 2 - 1 / 3) / (2 / 3))


def test_a_problem_without_a_solution_counts_as_unsolved_and_is_named_by_its_reason() -> None:
    high = Results(PLAN, ROWS).summary()["policies"][3]
    assert high["accuracy"]["value"] == 0.5
    assert high["endings"] == {"failed: attempts_exhausted": 1}
    assert high["latency_s"]["p50"] == 1


def test_a_setting_without_solutions_is_named_and_spoils_its_curve() -> None:
    failed = {"status": Status.FAILED, "verdict": None, "failure": "policy_models_differ"}
    rows = [each.model_copy(update=failed) if each.policy == HIGH else each for each in ROWS]
    summary = Results(PLAN, rows).summary()
    assert (summary["without_solutions"], summary["curves"]) == ([HIGH], [])
    assert Results(PLAN, ROWS).summary()["without_solutions"] == []


def test_baselines_have_no_relative_benefit_where_it_is_undefined() -> None:
    small, large, *_ = Results(PLAN, ROWS).summary()["policies"]
    assert small["dibc"] == {"value": None, "low": None, "high": None, "undefined": 1}
    assert large["dibc"]["value"] == 0


def test_a_metric_that_many_resamples_leave_undefined_has_no_interval() -> None:
    # Large-only is more accurate on one problem of four; about a third of the resamples lack it, and so the gap.
    rows = [each.model_copy(update={"verdict": Verdict.CORRECT}) if each.id != "3" else each for each in ROWS]
    low = Results(PLAN, rows).summary()["policies"][2]
    assert (low["pgr"]["value"], low["pgr"]["low"], low["pgr"]["high"]) == (0, None, None)
    assert low["pgr"]["undefined"] == pytest.approx((3 / 4) ** 4, abs=0.05)
    assert low["accuracy"]["low"] is not None


def test_a_difference_is_paired_and_tested() -> None:
    found = Results(PLAN, ROWS).difference(HIGH, LOW)
    assert (found["only_first_solved"], found["only_second_solved"]) == (1, 1)
    assert found["accuracy"]["value"] == 0
    assert found["large_tokens"]["value"] == 30
    assert found["p_value"] == 1


def test_the_summary_is_json() -> None:
    assert json.loads(json.dumps(Results(PLAN, ROWS, PRICES).summary()))["problems"] == 4
