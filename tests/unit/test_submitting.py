"""Requests become submissions: what a batch has in common is built once; the digest is of what a request asks for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from services.api import submitting
from services.api.errors import InvalidSubmission
from services.api.json_body import read_json
from services.api.schemas.submissions import BatchRequest, ProblemRequest
from services.api.submitting import check_batch, check_problem, idempotency
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
    checked = check_batch(batch(problems, split=SPLIT, shadows=SHADOWS), SETTINGS)
    submissions = [each.submission for each in checked]
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


def digest(text: str, *, batch: bool = False) -> str:
    """Return the digest of a request with an idempotency key."""
    body = read_json(text.encode())
    if batch:
        made = idempotency("key", *check_batch(BatchRequest.model_validate(body), SETTINGS))
    else:
        made = idempotency("key", check_problem(ProblemRequest.model_validate(body), SETTINGS))
    assert made is not None
    return made.digest


SAME = [
    ('"lookahead": 0', '"lookahead": 0.0'),
    ('"max_attempts": 10', '"max_attempts": 1e1'),
    ('"step_timeout_s": 100', '"step_timeout_s": 1e2'),
    ('"step_timeout_s": 60', ""),
    ('"lookahead": 0', ""),
    ('"sampling": {"seed": null, "temperature": 0.7}', '"sampling": {}'),
    ('"sampling": {"top_k": 3, "temperature": 0}', '"sampling": {"temperature": 0.0, "top_k": 3.0}'),
    ('"limits": {"max_steps": 30}', ""),
    ('"shadows": [], "split": null, "reference": null, "deadline_s": null', ""),
    ('"policy": {"name": "threshold", "parameters": {"threshold": 0.5}, "wrappers": {"epsilon": 0}}', ""),
    ('"policy": {"parameters": {"threshold": 1}}', '"policy": {"name": "threshold", "parameters": {"threshold": 1.0}}'),
    (
        '"shadows": [{"name": "random", "parameters": {"p": 1}}]',
        '"shadows": [{"parameters": {"p": 1.0}, "name": "random"}]',
    ),
    (
        '"split": [{"name": "a", "policy": {}}, {"name": "b", "policy": {"name": "small-only"}}]',
        '"split": [{"weight": 1, "policy": {}, "name": "a"}, {"policy": {"name": "small-only"}, "name": "b"}]',
    ),
    ('"sampling": {"temperature": 0}', '"sampling": {"temperature": -0.0}'),
    ('"policy": {"parameters": {"threshold": 0}}', '"policy": {"parameters": {"threshold": -1e-999}}'),
    ('"reference": 42', '"reference": "42"'),
    ('"reference": 0', '"reference": 0.0'),
    ('"deadline_s": 60', '"deadline_s": 6e1'),
]
"""Options that ask for the same, written in two ways."""

DIFFERENT = [
    ('"lookahead": 1', ""),
    ('"sampling": {"seed": 0}', ""),
    ('"reference": ""', ""),
    ('"deadline_s": 60', '"deadline_s": 61'),
    ('"policy": {"name": "small-only"}', '"policy": {"name": "large-only"}'),
    ('"policy": {"parameters": {"threshold": 0.25}}', ""),
    ('"shadows": [{}]', ""),
]


def problem(options: str) -> str:
    return '{"question": "What?"' + (f", {options}" if options else "") + "}"


@pytest.mark.parametrize(("first", "second"), SAME)
def test_requests_that_ask_for_the_same_have_the_same_digest(first: str, second: str) -> None:
    assert digest(problem(first)) == digest(problem(second))
    problems, defaults = (f'{{"problems": [{problem(each)}]}}' for each in (first, second)), '{"question": "What?"}'
    batches = [*problems, *(f'{{"defaults": {{{each}}}, "problems": [{defaults}]}}' for each in (first, second))]
    if "reference" not in first:  # which is no default of a batch
        assert len({digest(each, batch=True) for each in batches}) == 1


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_requests_that_ask_for_something_else_have_another_digest(first: str, second: str) -> None:
    assert digest(problem(first)) != digest(problem(second))


@pytest.mark.parametrize(
    ("written", "text"),
    [("42", "42"), ("42.0", "42"), ("2.50", "2.5"), ("1e2", "100"), ("-0.0", "0"), ("12345678901234567890123", None),
     ("0.12345678901234567890", None), ("1e999", None),
     ("1e99999999999999999999", None), ("-1e-99999999999999999999", None), ('"4.20"', "4.20")],
)  # fmt: skip
def test_a_reference_that_is_a_number_is_read_as_its_text(written: str, text: str | None) -> None:
    body = ProblemRequest.model_validate(read_json(f'{{"question": "What?", "reference": {written}}}'.encode()))
    assert body.reference == (text or written)


@pytest.mark.parametrize("written", ["true", "false", "[42]", '{"value": 42}', "NaN", "-Infinity"])
def test_any_other_reference_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match="Input should be a text or a number"):
        ProblemRequest.model_validate(read_json(f'{{"question": "What?", "reference": {written}}}'.encode()))
