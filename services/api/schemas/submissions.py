"""Requests that submit problems."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from shared.domain.options import Limits, Options, Sampling

MAX_SEED = 2**53
"""Largest seed. Every JSON parser reads integers up to here exactly."""

MAX_VERSION = 2**31 - 1
"""Largest number of a policy's version: a column holds it."""

MAX_LOOKAHEAD = 64
"""Largest lookahead that is a number."""

_NO_NUMBERS = frozenset({"nan", "inf", "-inf"})
"""Texts of `NaN` and `Infinity`, which Python's parser reads although they are not JSON."""

_LIMITS, _SAMPLING, _OPTIONS = Limits(), Sampling(), Options()


def _plain_text(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul", "Input should not contain NUL characters, which the database cannot store")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("surrogate", "Input should not contain half of a surrogate pair")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Input should not be blank")
    return text


def _whole(value: object) -> object:
    """Read `1e2` and `100.0` as 100: JSON has one kind of number, and JSON Schema calls these integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number_as_text(value: object) -> object:
    """Read a number as its text, so that equal numbers become the same text and no digit is lost."""
    if isinstance(value, str):
        return value
    written = getattr(value, "text", str(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or written in _NO_NUMBERS:
        raise PydanticCustomError("reference", "Input should be a text or a number")
    if not _is_exactly(value, written):
        return written
    return str(_whole(value) if abs(value) <= MAX_SEED else value)


def _is_exactly(value: float, written: str) -> bool:
    """Tell whether a number has all digits of its text."""
    try:
        return Decimal(str(value)) == Decimal(written)
    except InvalidOperation:  # Its exponent is beyond that of any `Decimal`.
        return False


def _number_or_unlimited(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """Report one error where a union would report one for each of its members."""
    try:
        return validate(value)
    except ValidationError as error:
        message = f'Input should be a whole number from 0 to {MAX_LOOKAHEAD}, or "unlimited"'
        raise PydanticCustomError("lookahead", message) from error


Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer."""

Text = Annotated[str, AfterValidator(_plain_text)]

Reference = (
    Annotated[Text, Field(max_length=1000), BeforeValidator(_number_as_text, json_schema_input_type=str | int | float)]
    | None
)

Lookahead = Annotated[
    Annotated[Whole, Field(ge=0, le=MAX_LOOKAHEAD)] | Literal["unlimited"], WrapValidator(_number_or_unlimited)
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class WrappersChoice(_Request):
    """How the policy is applied, whichever it is."""

    budget: Whole | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Number of large-model tokens that the problem may use; where it has no room for another step, "
        "drafts are accepted. Null is no limit.",
    )
    take_over: bool = Field(
        default=False, description="Whether the large model writes the rest of the solution after the first escalation."
    )
    epsilon: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the decisions that are drawn by lot, so that other policies can be evaluated on the "
        "record.",
    )


class PolicyChoice(_Request):
    """Policy that decides which steps the large model writes."""

    name: str = Field("threshold", max_length=80, description="Name of the policy; GET /v1/policies lists them.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the policy; those that are omitted get their defaults."
    )
    version: Whole | None = Field(
        None,
        ge=1,
        le=MAX_VERSION,
        description="Version of a fitted policy; if it is omitted, the default for the running models. "
        "GET /v1/policies/{name}/versions lists them.",
    )
    wrappers: WrappersChoice = Field(
        default_factory=WrappersChoice, description="How the policy is applied: budget, taking over, exploration."
    )


class LimitsChoice(_Request):
    """Bounds of the work on a problem."""

    max_steps: Whole = Field(_LIMITS.max_steps, ge=1, le=200, description="Maximum number of steps of the solution.")
    max_step_tokens: Whole = Field(
        _LIMITS.max_step_tokens,
        ge=1,
        le=8192,
        description="Maximum number of tokens of a step; a longer one ends there.",
    )
    max_tokens: Whole = Field(
        _LIMITS.max_tokens, ge=1, le=131_072, description="Number of tokens at which the solution ends."
    )


class SamplingChoice(_Request):
    """How the models sample tokens."""

    temperature: float = Field(_SAMPLING.temperature, ge=0, le=2, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(
        _SAMPLING.top_p, gt=0, le=1, description="Probability mass of the most likely tokens to sample from."
    )
    top_k: Whole = Field(
        _SAMPLING.top_k, ge=0, le=1000, description="Number of most likely tokens to sample from; 0 is no limit."
    )
    seed: Whole | None = Field(
        None, ge=0, le=MAX_SEED, description="Seed of the sampling; drawn at random and recorded if omitted."
    )


class ArmChoice(_Request):
    """Arm of a split: a policy that decides its share of the problems."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="Name of the arm, such as `a`; unique within the split."
    )
    weight: float = Field(
        1.0, gt=0, le=1e6, description="Weight of the arm; its share is the weight divided by the sum of all weights."
    )
    policy: PolicyChoice = Field(description="Policy that decides the problems of the arm.")


def _differently_named(arms: list[ArmChoice]) -> list[ArmChoice]:
    if len({each.name for each in arms}) < len(arms):
        raise PydanticCustomError("same_name", "Input should have arms with different names")
    return arms


class Choices(_Request):
    """Options of a problem."""

    policy: PolicyChoice = Field(
        default_factory=PolicyChoice, description="Policy that decides which steps the large model writes."
    )
    split: Annotated[list[ArmChoice], Field(min_length=2, max_length=8), AfterValidator(_differently_named)] | None = (
        Field(None, description="In place of `policy`: policies of which each problem gets one by chance.")
    )
    shadows: list[PolicyChoice] = Field(
        default_factory=list,
        max_length=4,
        description="Policies that also decide on what the policy sees, without any effect; their decisions are "
        "recorded.",
    )
    lookahead: Lookahead = Field(
        _OPTIONS.lookahead or 0,
        description="Number of steps that the small model may draft ahead of the last accepted one.",
    )
    limits: LimitsChoice = Field(default_factory=LimitsChoice, description="Bounds of the work on the problem.")
    sampling: SamplingChoice = Field(default_factory=SamplingChoice, description="How the models sample tokens.")
    step_timeout_s: float = Field(
        _OPTIONS.step_timeout_s,
        ge=0.1,
        le=3600,
        description="Seconds after which a step is requested again; doubles with each attempt, up to an hour.",
    )
    max_attempts: Whole = Field(
        _OPTIONS.max_attempts,
        ge=1,
        le=20,
        description="Maximum number of times that a step is requested before the problem fails.",
    )
    when_prm_away: Literal["wait", "escalate", "accept"] | None = Field(
        None,
        description="What happens while the PRM is away: the problem waits, steps are escalated without a draft, or "
        "drafts are accepted without a score. Null is the deployment's choice.",
    )
    when_large_away: Literal["wait", "accept", "fail"] | None = Field(
        None,
        description="What happens while the large model is away and needed: the problem waits, drafts are accepted in "
        "place of escalations, or the problem fails. Null is the deployment's choice.",
    )
    when_small_away: Literal["wait", "large-only"] | None = Field(
        None,
        description="What happens while the small model is away: the problem waits, or the large model writes the "
        "steps. Null is the deployment's choice.",
    )
    away_patience_s: float | None = Field(
        None,
        ge=0,
        le=30 * 86_400,
        description="Seconds that a role is away before the problem goes on without it, or fails. Null is the "
        "deployment's choice.",
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        le=30 * 86_400,
        description="Seconds from submission until the problem expires unsolved; null for no deadline.",
    )


class ProblemRequest(Choices):
    """Problem to solve."""

    question: Annotated[Text, AfterValidator(_not_blank)] = Field(description="Problem statement.")
    reference: Reference = Field(
        None,
        description="Correct answer, if known; the verdict compares the solution's answer with it. A number is read as "
        "its text.",
    )


class BatchRequest(_Request):
    """Problems to solve together."""

    defaults: Choices = Field(
        default_factory=Choices,
        description="Options for problems that omit them. `limits` and `sampling` are completed field by field.",
    )
    problems: list[ProblemRequest] = Field(min_length=1, description="Problems to solve.")


class UncheckedBatch(_Request):
    """A batch whose problems are checked one by one."""

    defaults: Choices = Field(default_factory=Choices, description="As in `BatchRequest`.")
    problems: list[Any] = Field(min_length=1, description="Problems to solve, and wrong ones.")


def _unchanged(value: object) -> object:
    return value


BatchBody = Annotated[
    BatchRequest, BeforeValidator(_unchanged, json_schema_input_type=BatchRequest | list[ProblemRequest])
]
"""A batch; an array of problems stands for the object with these problems, as which the route reads it."""
