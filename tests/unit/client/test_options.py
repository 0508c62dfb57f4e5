"""Policies as text, and responses of a later service."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.client import samples
from trim_client import BadPolicyText, Problem, parse_policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("small-only", {"name": "small-only", "parameters": {}}),
        (" threshold:threshold=0.7 ", {"name": "threshold", "parameters": {"threshold": 0.7}}),
        ("pomdp@3", {"name": "pomdp", "parameters": {}, "version": 3}),
        (
            "confidence:of=least, threshold=1,budget=300,take_over=true",
            {
                "name": "confidence",
                "parameters": {"of": "least", "threshold": 1},
                "wrappers": {"budget": 300, "take_over": True},
            },
        ),
    ],
)
def test_a_policy_is_read_from_text(text: str, policy: dict[str, Any]) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize("text", ["", "Threshold", "a b", "a@0", "a:b", "a:b=", "a:b=1,b=2", "a:=1"])
def test_what_is_no_policy_is_named(text: str) -> None:
    with pytest.raises(BadPolicyText, match=r"is no policy such as|write each parameter once"):
        parse_policy(text)


def test_fields_and_values_that_a_later_service_adds_break_nothing_and_are_kept() -> None:
    later = samples.problem("succeeded") | {
        "status": "postponed", "verdict": "nearly", "lookahead": "adaptive", "mood": {"a": 1}, "finished_at": None,
    }  # fmt: skip
    later["ledger"] = {**later["ledger"], "judge_tokens": 3}
    read = Problem.model_validate(later)
    assert (read.status, read.has_ended, read.verdict, read.lookahead) == ("postponed", False, "nearly", "adaptive")
    assert read.model_extra == {"mood": {"a": 1}}
    assert read.model_dump(mode="json")["ledger"]["judge_tokens"] == 3
