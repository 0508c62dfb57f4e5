"""The figures of chaos, on made-up records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from rich.console import Console

from chaos.measuring import Record, is_steady, longest_gap_s, measure
from chaos.running import run
from chaos.scenarios import _judge_blips, _judge_gap, _judge_rates
from chaos.scene import Ground, Outcome, Scene
from shared.errors import RetryableError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def problem(question: str, **changed: Any) -> dict[str, Any]:
    ledger = {"small_kept": 80, "small_discarded": 20, "small_wasted": 0, "large_out": 50, "large_wasted": 0}
    return {"id": f"id of {question}", "question": question, "status": "succeeded", **ledger, **changed}


def record(*problems: Mapping[str, Any], **changed: Any) -> Record:
    questions = [each["question"] for each in problems]
    given: dict[str, Any] = {"questions": questions, "steps": [], "decisions": [], "results": {}, **changed}
    return Record(problems=problems, **given)


def test_a_sound_record_has_nothing_lost_doubled_or_bought_twice() -> None:
    steps = [{"problem_id": name, "step": 0, "accepted_at": NOON} for name in "ab"]
    decisions = [{"problem_id": name, "number": 0, "draft_id": f"of {name}"} for name in "ab"]
    figures = measure(record(problem("a"), problem("b"), steps=steps, decisions=decisions))
    assert (figures.problems, figures.succeeded, figures.lost, figures.doubled, figures.failed_innocents) == (
        2,
        2,
        0,
        0,
        0,
    )
    assert (figures.small_twice, figures.large_twice, figures.longest_gap_s) == (0, 0, 0)


def test_a_problem_is_lost_if_it_does_not_exist_or_is_open_and_does_not_change() -> None:
    going, still = problem("going", status="running"), problem("still", status="running")
    waiting = problem("waiting", status="queued")
    assert measure(record(going, still, waiting, moved={going["id"]})).lost == 1, "one waits for its turn"
    assert measure(record(still, waiting)).lost == 2, "nothing goes on, so it waits for no turn"
    assert measure(record(problem("a"), questions=["a", "never stored"])).lost == 1


@pytest.mark.parametrize(
    "twice",
    [
        {"problems": [problem("a"), problem("a")]},
        {"steps": [{"problem_id": 1, "step": 0, "accepted_at": NOON}] * 2},
        {"decisions": [{"problem_id": 1, "number": number, "draft_id": "same"} for number in (0, 1)]},
        {"decisions": [{"problem_id": 1, "number": 0, "draft_id": None}] * 2},
        {"results": {"a": {("succeeded", "7", "correct"), ("succeeded", "8", "incorrect")}}},
    ],
)
def test_what_exists_twice_is_doubled(twice: dict[str, Any]) -> None:
    problems = twice.pop("problems", [problem("a")])
    assert measure(record(*problems, questions=["a"], **twice)).doubled == 1


def test_decisions_without_drafts_are_not_doubled() -> None:
    decisions = [{"problem_id": 1, "number": number, "draft_id": None} for number in (0, 1)]
    assert measure(record(problem("a"), decisions=decisions)).doubled == 0


def test_only_problems_that_were_not_meant_to_fail_are_innocent() -> None:
    ended = [problem(status, status=status) for status in ("failed", "expired", "cancelled", "running", "succeeded")]
    assert measure(record(*ended)).failed_innocents == 3
    assert measure(record(*ended), guilty=["failed"]).failed_innocents == 2


def test_tokens_bought_twice_are_a_share_of_those_that_count() -> None:
    figures = measure(record(problem("a", small_wasted=5), problem("b", large_wasted=20, large_out=150)))
    assert (figures.small_twice, figures.large_twice) == (5 / 200, 20 / 200)
    nothing = dict.fromkeys(("small_kept", "small_discarded", "large_out"), 0)
    assert measure(record(problem("a", **nothing, small_wasted=5))).small_twice == 1
    assert measure(record()).large_twice == 0


@pytest.mark.parametrize(("blips", "missed"), [(1, ["small", "large"]), (4, ["large"]), (10, [])])
def test_tokens_that_blips_bought_twice_miss_the_bar(blips: int, missed: list[str]) -> None:
    figures = measure(record(problem("a", small_wasted=5), problem("b", large_wasted=20, large_out=150)))
    assert [sentence.split()[0] for sentence in _judge_blips(figures, blips=blips)] == missed


def test_a_long_time_without_a_step_misses_the_bar() -> None:
    for seconds, count in ((20, 0), (60, 1)):
        steps = [
            {"accepted_at": NOON + timedelta(seconds=each), "problem_id": 1, "step": each} for each in (0, seconds)
        ]
        assert len([*_judge_gap(measure(record(problem("a"), steps=steps)))]) == count


def test_the_longest_gap_is_that_between_moments_that_follow_each_other() -> None:
    assert longest_gap_s(NOON + timedelta(seconds=each) for each in (9, 0, 2, 8.5)) == 6.5
    assert longest_gap_s([NOON]) == 0


def test_a_rate_is_steady_within_its_tolerance() -> None:
    assert is_steady(100, 95, tolerance=0.05)
    assert is_steady(100, 105, tolerance=0.05)
    assert not is_steady(100, 94, tolerance=0.05)
    assert not is_steady(0, 0, tolerance=0.05)


@pytest.mark.parametrize(
    ("during", "after", "misses"), [(80, 100, True), (90, 100, False), (80, 70, False), (80, 130, True), (0, 0, True)]
)
def test_a_low_rate_under_a_lock_misses_the_bar_only_on_a_quiet_machine(
    during: float, after: float, *, misses: bool
) -> None:
    absent = cast("Any", None)
    scene = Scene(name="lock", deployment=absent, load=absent, witness=absent, draw=Random(1))
    _judge_rates(scene, 100, during, after)
    assert bool(scene.missed) is misses
    [fact] = scene.facts
    assert f"{during}.0%" in fact
    assert ("; trusted" in fact) is (after == 100)


def test_a_scenario_that_could_not_be_carried_out_misses_the_bar_and_one_that_was_skipped_does_not(
    tmp_path: Path,
) -> None:
    def skip(_: Ground) -> Outcome:
        return Outcome(name="skip", skipped="A program is missing.")

    def fail(_: Ground) -> Outcome:
        raise RetryableError

    ground = Ground(server_url="", broker_url="", seed=5, folder=tmp_path)
    printed = StringIO()
    scenarios = {"skip": skip, "fail": fail}
    console = Console(file=printed, width=120)
    assert run(ground, ["skip"], console, scenarios=scenarios)
    assert "skip: skipped: A program is missing." in printed.getvalue()
    assert not run(ground, ["skip", "fail"], console, scenarios=scenarios)
    assert "MISSED  fail: it could not be carried out: A server did not answer" in printed.getvalue()
    assert printed.getvalue().endswith("Repeat with: make chaos SEED=5 SCENARIOS='skip fail'\n")
