"""Policies as a person writes them on a command line."""

from __future__ import annotations

import pytest

from evaluation.runs.candidates import Candidate
from shared.errors import PermanentError


@pytest.mark.parametrize(
    ("text", "choice", "curve"),
    [
        ("large-only", {"name": "large-only", "parameters": {}}, "large-only"),
        ("threshold:threshold=0.5", {"name": "threshold", "parameters": {"threshold": 0.5}}, "threshold"),
        (
            "pomdp@3:large_token_price=0.002,belief=memoryless",
            {"name": "pomdp", "version": 3, "parameters": {"large_token_price": 0.002, "belief": "memoryless"}},
            "pomdp@3",
        ),
        (
            " threshold: threshold = 1, budget=300, take_over=true ",
            {"name": "threshold", "parameters": {"threshold": 1}, "wrappers": {"budget": 300, "take_over": True}},
            "threshold budget=300 take_over=True",
        ),
    ],
)
def test_a_policy_is_read_with_version_parameters_and_wrappers(
    text: str, choice: dict[str, object], curve: str
) -> None:
    candidate = Candidate.parse(text)
    assert candidate.choice() == choice
    assert candidate.curve == curve


def test_the_version_of_the_run_completes_a_policy_that_has_none() -> None:
    assert Candidate.parse("pomdp").choice(4)["version"] == 4
    assert Candidate.parse("pomdp@3").choice(4)["version"] == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no policy such as"),
        ("Threshold", "is no policy such as"),
        ("pomdp@0", "is no policy such as"),
        ("threshold:0.5", "as `name=value`"),
        ("threshold:threshold=", "as `name=value`"),
        ("threshold:threshold=0.5,threshold=0.6", "once"),
        ("nothing", "no policy 'nothing'"),
        ("threshold:threshold=2", "threshold"),
        ("threshold:cut=0.5", "cut"),
        ("threshold:epsilon=2", "epsilon"),
        ("threshold:budget=-1", "budget"),
        ("threshold:take_over=perhaps", "take_over"),
        ("cascade:epsilon=0.1", "epsilon"),
    ],
)
def test_a_wrong_policy_is_refused_in_one_sentence(text: str, complaint: str) -> None:
    with pytest.raises(PermanentError, match=complaint):
        Candidate.parse(text)
