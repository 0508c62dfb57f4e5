"""Requests become submissions: what a batch has in common is built once."""

from __future__ import annotations

import math
from typing import Any

import pytest

from services.api import submitting
from services.api.errors import InvalidSubmission
from services.api.schemas.submissions import BatchRequest
from services.api.submitting import check_batch
from shared.policies.registry import build_routing
from shared.settings import Settings

SETTINGS = Settings()
SPLIT = [{"name": "a", "policy": {"name": "small-only"}}, {"name": "b", "policy": {"name": "pomdp"}}]
SHADOWS = [{"name": "random", "parameters": {"p": 0.5}}, {"name": "random", "parameters": {"p": 0.25}}]


def batch(problems: list[dict[str, Any]], **defaults: Any) -> BatchRequest:
    return BatchRequest.model_validate({"problems": problems, "defaults": defaults})


def test_each_different_choice_of_a_batch_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []

    def build(name: str, parameters: dict[str, Any], wrappers: Any) -> Any:
        built.append((name, parameters))
        return build_routing(name, parameters, wrappers)

    monkeypatch.setattr(submitting, "build_routing", build)
    problems = [{"question": f"What is {number}?"} for number in range(20)]
    submissions = check_batch(batch(problems, split=SPLIT, shadows=SHADOWS), SETTINGS)
    assert len(built) == 4
    assert {tuple(arm.name for arm in each.arms) for each in submissions} == {("a", "b")}
    assert {tuple(chosen.policy.parameters["p"] for chosen in each.shadows) for each in submissions} == {(0.5, 0.25)}


def test_a_wrong_choice_beside_one_that_looks_alike_names_its_place() -> None:
    shares = (None, math.nan)
    problems = [
        {"question": "What?", "policy": {"name": "aggregate", "parameters": {"escalate_share": share}}}
        for share in shares
    ]
    with pytest.raises(InvalidSubmission) as refused:
        check_batch(batch(problems), SETTINGS)
    assert refused.value.field == "body.problems.1.policy"
