"""What happens while roles are away: as a submission chooses, or as the deployment does, never against the policy."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.errors import InvalidSubmission
from services.api.schemas.submissions import ProblemRequest
from services.api.submitting import check_problem
from shared.domain.options import Bridging, WhenLargeAway, WhenPrmAway, WhenSmallAway
from shared.settings import Settings

SETTINGS = Settings(when_prm_away="accept", when_large_away="accept", away_patience_s=5)


def chosen(**fields: Any) -> Bridging:
    body = ProblemRequest.model_validate({"question": "What is 6 times 7?", **fields})
    return check_problem(body, SETTINGS).submission.options.bridging


def test_a_problem_chooses_field_by_field_and_otherwise_gets_what_the_deployment_chose() -> None:
    assert chosen() == Bridging(
        when_prm_away=WhenPrmAway.ACCEPT, when_large_away=WhenLargeAway.ACCEPT, away_patience_s=5
    )
    assert chosen(
        when_prm_away="escalate", when_large_away="fail", when_small_away="large-only", away_patience_s=0
    ) == (
        Bridging(
            when_prm_away=WhenPrmAway.ESCALATE,
            when_large_away=WhenLargeAway.FAIL,
            when_small_away=WhenSmallAway.LARGE_ONLY,
            away_patience_s=0,
        )
    )


@pytest.mark.parametrize(
    ("policy", "name", "mode", "why"),
    [
        ("large-only", "when_large_away", "accept", "has no drafts to accept"),
        ("small-only", "when_small_away", "large-only", "never escalates"),
        ("small-only", "when_prm_away", "escalate", "never escalates"),
    ],
)
def test_a_choice_that_contradicts_the_policy_is_refused_with_one_sentence(
    policy: str, name: str, mode: str, why: str
) -> None:
    with pytest.raises(InvalidSubmission) as refused:
        chosen(policy={"name": policy}, **{name: mode})
    detail = f"The policy `{policy}` {why}; choose another `{name}` than `{mode}`."
    assert (refused.value.field, refused.value.message) == (f"body.{name}", detail)
    split = [{"name": "a", "policy": {"name": "threshold"}}, {"name": "b", "policy": {"name": policy}}]
    with pytest.raises(InvalidSubmission):
        chosen(split=split, **{name: mode})


def test_what_the_deployment_chose_is_no_contradiction() -> None:
    assert chosen(policy={"name": "large-only"}).when_large_away is WhenLargeAway.ACCEPT
