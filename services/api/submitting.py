"""Turns requests into submissions: checks, defaults, idempotency. Every front door that submits problems uses it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from services.api.errors import InvalidSubmission
from services.api.schemas.submissions import MAX_SEED, BatchRequest, Choices, PolicyChoice, ProblemRequest
from shared.domain.options import Bridging, Limits, Options, Sampling, Wrappers
from shared.errors import PermanentError
from shared.policies.policy import FittedPolicy
from shared.policies.registry import build_routing
from shared.policies.shadowing import UnfitShadow, check_shadow, reporting
from shared.policies.wrapping import Routing
from shared.settings import Settings
from shared.store.submissions import Arm, Chosen, Idempotency, Submission

_BRIDGING = TypeAdapter(Bridging)

_MERGED = ("limits", "sampling")
"""Fields that a batch's defaults complete field by field; other fields are replaced as a whole."""


class BatchTooLarge(PermanentError):
    """The batch has too many problems; submit several smaller ones."""

    code = "batch_too_large"


@dataclass(frozen=True, slots=True)
class Checked:
    """A problem of a request, checked and complete."""

    submission: Submission
    meaning: Mapping[str, Any]
    """What the request asks for, without what it would get by default: the same however it is written."""


class BuiltChoices:
    """What a request chooses, each different choice built once: a batch has the same for each of its problems."""

    def __init__(self) -> None:
        self._routings: dict[str, Routing] = {}

    def routing(self, choice: PolicyChoice, *, field: str) -> Routing:
        """Build what a submission chooses, without the artefact of a fitted policy.

        Raises:
            InvalidSubmission: It chooses no policy, or one with wrong parameters.
        """
        key = json.dumps(choice.model_dump())
        if (built := self._routings.get(key)) is None:
            built = self._routings[key] = _routing(choice, field=field)
        return built

    def meaning(self, body: ProblemRequest) -> Mapping[str, Any]:
        """Return what a checked problem asks for, without what it would get by default."""
        plain: dict[str, Any] = {"shadows": [self._plain(each) for each in body.shadows]}
        if body.split is None:
            plain["policy"] = self._plain(body.policy)
        else:
            plain["split"] = [each.model_copy(update={"policy": self._plain(each.policy)}) for each in body.split]
        return body.model_copy(update=plain).model_dump(mode="json", exclude_defaults=True)

    def _plain(self, choice: PolicyChoice) -> PolicyChoice:
        """Return a checked choice with those of its parameters that are not defaults, as the policy reads them."""
        policy = self.routing(choice, field="").policy
        return choice.model_copy(update={"parameters": policy.model_dump(mode="json", exclude_defaults=True)})


def check_problem(
    body: ProblemRequest, settings: Settings, *, field: str = "body", built: BuiltChoices | None = None
) -> Checked:
    """Check what the schema cannot, and turn a request into a submission.

    Args:
        body: The request.
        settings: Settings of the process.
        field: Place of the problem in the request, for error messages.
        built: What other problems of the request chose.

    Raises:
        InvalidSubmission: A field is wrong; the error names it.
    """
    if len(body.question) > settings.max_question_chars:
        detail = f"The question has {len(body.question)} characters; the maximum is {settings.max_question_chars}."
        raise InvalidSubmission(f"{field}.question", detail)
    built = built or BuiltChoices()
    arms, shadows = _deciding(body, built, field=field)
    seed = secrets.randbelow(MAX_SEED) if body.sampling.seed is None else body.sampling.seed
    deadline_at = None
    if body.deadline_s is not None:
        deadline_at = datetime.now(UTC) + timedelta(seconds=body.deadline_s)
    submission = Submission(
        question=body.question,
        reference=body.reference,
        arms=arms,
        shadows=shadows,
        options=Options(
            lookahead=None if body.lookahead == "unlimited" else body.lookahead,
            limits=Limits(**body.limits.model_dump()),
            sampling=Sampling(**{**body.sampling.model_dump(), "seed": seed}),
            step_timeout_s=body.step_timeout_s,
            max_attempts=body.max_attempts,
            bridging=_bridging(body, settings, arms, field=field),
            deadline_at=deadline_at,
        ),
    )
    return Checked(submission, built.meaning(body))


def _bridging(body: Choices, settings: Settings, arms: Sequence[Arm], *, field: str) -> Bridging:
    """Return what happens while roles are away: as the request chooses, otherwise as the deployment does.

    A choice of the deployment that a policy cannot carry out has its problems wait.

    Raises:
        InvalidSubmission: A choice of the request contradicts one of its policies.
    """
    for arm in arms:
        contradictions = (
            ("when_prm_away", "escalate", not arm.plan.escalates, "never escalates"),
            ("when_small_away", "large-only", not arm.plan.escalates, "never escalates"),
            ("when_large_away", "accept", not arm.plan.drafts, "has no drafts to accept"),
        )
        for name, mode, contradicts, why in contradictions:
            if contradicts and getattr(body, name) == mode:
                detail = f"The policy `{arm.chosen.policy.name}` {why}; choose another `{name}` than `{mode}`."
                raise InvalidSubmission(f"{field}.{name}", detail)
    chosen = {each.name: getattr(body, each.name) for each in fields(Bridging)}
    return _BRIDGING.validate_python(
        {name: getattr(settings, name) if choice is None else choice for name, choice in chosen.items()}
    )


def _deciding(body: Choices, built: BuiltChoices, *, field: str) -> tuple[tuple[Arm, ...], tuple[Chosen, ...]]:
    """Build the arms and the shadows.

    Raises:
        InvalidSubmission: A choice is wrong, or a shadow does not fit.
    """
    field_of = [f"{field}.shadows.{place}" for place in range(len(body.shadows))]
    shadows = [built.routing(choice, field=each) for choice, each in zip(body.shadows, field_of, strict=True)]
    arms = [replace(arm, plan=reporting(arm.plan, shadows)) for arm in _arms(body, built, field=field)]
    for shadow, each in zip(shadows, field_of, strict=True):
        _check_shadow(shadow, arms, field=each)
    return tuple(arms), tuple(map(_chosen, body.shadows, shadows))


def _arms(body: Choices, built: BuiltChoices, *, field: str) -> tuple[Arm, ...]:
    """Build the policies of which one decides: those of the split, or the only one.

    Raises:
        InvalidSubmission: A choice is wrong, or both are named.
    """
    if body.split is None:
        return (_arm(body.policy, built, field=f"{field}.policy"),)
    check_one_choice(body, field=field)
    return tuple(
        replace(_arm(each.policy, built, field=f"{field}.split.{place}.policy"), name=each.name, weight=each.weight)
        for place, each in enumerate(body.split)
    )


def check_one_choice(body: Choices, *, field: str) -> None:
    """Check that a request does not name both a policy and a split.

    Raises:
        InvalidSubmission: It names both.
    """
    if body.split is not None and "policy" in body.model_fields_set:
        raise InvalidSubmission(f"{field}.split", "A split takes the place of `policy`; omit one of the two.")


def _arm(choice: PolicyChoice, built: BuiltChoices, *, field: str) -> Arm:
    routing = built.routing(choice, field=field)
    return Arm(chosen=_chosen(choice, routing), plan=routing.plan)


def _check_shadow(shadow: Routing, arms: Sequence[Arm], *, field: str) -> None:
    """Check that a shadow fits every arm: whether a submission is refused must not depend on a lot.

    Raises:
        InvalidSubmission: It does not fit.
    """
    for arm in arms:
        try:
            check_shadow(shadow, arm.plan, policy=arm.chosen.policy.name)
        except UnfitShadow as error:
            raise InvalidSubmission(field, error) from error


def _chosen(choice: PolicyChoice, routing: Routing) -> Chosen:
    policy = replace(routing.choice, version=choice.version)
    return Chosen(policy, needs_version=isinstance(routing.policy, FittedPolicy))


def _routing(choice: PolicyChoice, *, field: str) -> Routing:
    try:
        routing = build_routing(choice.name, choice.parameters, Wrappers(**choice.wrappers.model_dump()))
    except PermanentError as error:
        raise InvalidSubmission(field, error) from error
    if choice.version is not None and not isinstance(routing.policy, FittedPolicy):
        detail = f"The policy {choice.name!r} is not fitted to models, so it has no versions; omit `version`."
        raise InvalidSubmission(f"{field}.version", detail)
    return routing


def check_batch(body: BatchRequest, settings: Settings) -> Sequence[Checked]:
    """Check the problems of a batch, completed with its defaults, and turn them into submissions.

    Raises:
        InvalidSubmission: A field is wrong; the error names it.
    """
    check_size(len(body.problems), settings)
    check_one_choice(body.defaults, field="body.defaults")
    built = BuiltChoices()
    return [
        check_problem(completed(each, body.defaults), settings, field=f"body.problems.{index}", built=built)
        for index, each in enumerate(body.problems)
    ]


def check_size(problems: int, settings: Settings) -> None:
    """Check the number of problems of a batch that is one JSON document.

    Raises:
        InvalidSubmission: There are too many.
    """
    if problems > settings.max_batch_size:
        detail = f"The batch has {problems} problems; the maximum is {settings.max_batch_size}."
        raise InvalidSubmission("body.problems", BatchTooLarge(detail))


def idempotency(key: str | None, *checked: Checked) -> Idempotency | None:
    """Pair an idempotency key with the digest of a request's problems.

    Two requests are the same if they ask for the same: however a number is written, a default spelled out or an object
    ordered, and wherever a batch has its options. The drawn seed and the time of the deadline are no part of it.
    """
    if key is None:
        return None
    digest = MeaningDigest()
    for each in checked:
        digest.add(each.meaning)
    return Idempotency(key=key, digest=digest.hexdigest())


class MeaningDigest:
    """Digest of what the problems of a request ask for, which may arrive one by one."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"[")
        self._is_empty = True

    def add(self, meaning: Mapping[str, Any] | None) -> None:
        """Add what the next problem asks for; `None` for one that cannot be used."""
        written = json.dumps(meaning, sort_keys=True)
        self._hash.update((written if self._is_empty else f", {written}").encode())
        self._is_empty = False

    def hexdigest(self) -> str:
        """Return the digest of all problems so far."""
        whole = self._hash.copy()
        whole.update(b"]")
        return whole.hexdigest()


def completed(problem: ProblemRequest, defaults: Choices) -> ProblemRequest:
    """Add the defaults of a batch to a problem that omits them."""
    if not defaults.model_fields_set:
        return problem
    given = problem.model_dump(exclude_unset=True)
    default = defaults.model_dump(exclude_unset=True)
    merged = {name: {**default.get(name, {}), **given.get(name, {})} for name in _MERGED}
    # A problem's own policy takes the place of the split among the defaults, and its split that of their policy.
    if "policy" in given:
        default.pop("split", None)
    if given.get("split") is not None:
        default.pop("policy", None)
    return ProblemRequest.model_validate({**default, **given, **merged})
