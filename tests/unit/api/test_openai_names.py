"""Names of models: what each stands for, and what becomes of any other name."""

from __future__ import annotations

import pytest

from services.api.openai.errors import UnknownModel
from services.api.openai.names import FITTED, PRESETS, name_of, read_name
from services.api.schemas.submissions import PolicyChoice
from shared.policies.registry import POLICIES, build_policy


@pytest.mark.parametrize(
    ("model", "name", "parameters", "version"),
    [
        ("trim", "threshold", {}, None),
        ("trim-small", "small-only", {}, None),
        ("trim-large", "large-only", {}, None),
        ("trim-threshold", "threshold", {}, None),
        ("trim-threshold-0.35", "threshold", {"threshold": 0.35}, None),
        ("trim-threshold-0", "threshold", {"threshold": 0.0}, None),
        ("trim-threshold-1", "threshold", {"threshold": 1.0}, None),
        ("trim-cascade-0.5", "cascade", {"threshold": 0.5}, None),
        ("trim-confidence-0.9", "confidence", {"threshold": 0.9}, None),
        ("trim-random-0.2", "random", {"p": 0.2}, None),
        ("trim-pomdp", "pomdp", {}, None),
        ("trim-pomdp@3", "pomdp", {}, 3),
        ("trim-pomdp@3-0.0008", "pomdp", {"large_token_price": 0.0008}, 3),
        ("trim-aggregate-0.1", "aggregate", {"escalate_share": 0.1}, None),
        ("trim-sequence", "sequence", {}, None),
    ],
)
def test_a_name_stands_for_a_policy(model: str, name: str, parameters: dict[str, float], version: int | None) -> None:
    assert read_name(model) == PolicyChoice(name=name, parameters=parameters, version=version)


def test_every_policy_has_a_name_and_every_preset_can_be_built() -> None:
    for policy in POLICIES:
        assert read_name(name_of(policy)).name == policy
    for preset in PRESETS:
        choice = read_name(preset)
        assert choice.name not in FITTED, "its versions come and go"
        build_policy(choice.name, choice.parameters)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gpt-4o", "the names are `trim`"),
        ("trim-smal", "did you mean `trim-small`?"),
        ("TRIM-LARGE", "did you mean `trim-large`?"),
        ("trim-treshold-0.5", "did you mean `trim-threshold-0.5`?"),
        ("trim-threshold-1.5", "less than or equal to 1"),
        ("trim-threshold--1", "There is no model"),
        ("trim-threshold-nan", "There is no model"),
        ("trim-threshold-", "There is no model"),
        ("trim-threshold-0.5 ", "There is no model"),
        ("trim-threshold-0.5\n", "There is no model"),
        ("trim-small-0.5", "has no setting"),
        ("trim-threshold@3", "has no such version"),
        ("trim-pomdp@99999999999", "There is no model"),
        ("trim-pomdp@9999999999", "has no such version"),
        ("trim-pomdp@0", "There is no model"),
        ("x" * 10_000, "There is no model"),
        ("", "There is no model"),
    ],
)
def test_any_other_name_is_refused_with_what_is_near(model: str, message: str) -> None:
    with pytest.raises(UnknownModel) as refused:
        read_name(model)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 600
    assert (refused.value.code, refused.value.status, refused.value.param) == ("model_not_found", 404, "model")
