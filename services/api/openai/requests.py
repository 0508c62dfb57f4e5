"""Requests for chat completions: OpenAI's parameters, as far as this service can honour them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, LiteralString

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from services.api.schemas.submissions import MAX_SEED, Choices, Reference, Text, Whole, WrappersChoice

MAX_MESSAGES = 64
MAX_STOPS = 4


def _joined(content: object) -> object:
    """Join the parts of a message's content, which all have to be text."""
    if not isinstance(content, list):
        return content
    return "".join(_text_of(part) for part in content)


def _text_of(part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
        shown = f"parts of type `{str(kind)[:40]}`" if kind not in (None, "text") else "this part"
        why = f"The models read text only, and not {shown}; send parts of type `text`"
        raise PydanticCustomError("unsupported", why)
    if unknown := sorted(part.keys() - {"type", "text"}):
        raise PydanticCustomError("unknown_field", f"A part of type `text` has no field `{unknown[0][:40]}`; omit it")
    text: str = part["text"]
    return text


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


def _only(allowed: Sequence[object], *, why: LiteralString) -> BeforeValidator:
    """Accept null and other values that change nothing, and refuse the others with the reason."""

    def check(value: object) -> object:
        # `1` equals `True` in Python, but not in JSON.
        same = [each for each in allowed if each == value and isinstance(each, bool) == isinstance(value, bool)]
        if value is None or same:
            return value
        raise PydanticCustomError("unsupported", why)

    return BeforeValidator(check, json_schema_input_type=Any)


_ONE_TEXT = "A problem has one solution, a text"
_NO_TOOLS = "The models call no tools and no functions; omit it"
_NO_PENALTY = "Steps are sampled without penalties and biases; omit it, or send 0"


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class ChatMessage(BaseModel):
    """Message of a conversation."""

    # Other fields are checked with the role: those of an assistant's message are wrong because of the message.
    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"] = Field(
        description="Author of the message: `user` for the question, `system` or `developer` for what precedes it."
    )
    content: Annotated[
        Text | None, BeforeValidator(_joined, json_schema_input_type=str | list[dict[str, Any]] | None)
    ] = Field(None, description="Text of the message, or its parts, all of type `text`, which are joined.")
    name: str | None = Field(None, max_length=64, description="Name of the author; it has no effect.")


class StreamOptions(_Request):
    """Options of a stream."""

    include_usage: bool | None = Field(
        None, description="Whether a last chunk without choices holds the usage, and every other one a null."
    )
    include_obfuscation: bool | None = Field(None, description="No effect: chunks are not padded.")


class TrimChoices(Choices):
    """Options of this service that OpenAI's API does not have, as in `POST /v1/problems`."""

    wrappers: WrappersChoice | None = Field(
        None, description="How the policy that `model` names is applied: budget, taking over, exploration."
    )
    reference: Reference = Field(
        None, description="Correct answer, if known; the verdict compares the solution's answer with it."
    )


class ChatRequest(_Request):
    """Request for the solution of one question, in OpenAI's form.

    Null is the same as leaving a parameter out. A parameter that changes nothing is accepted; one that asks for
    what this service cannot do is refused.
    """

    model: str = Field(max_length=200, description="Model, which names a policy; GET /v1/models lists some.")
    messages: list[ChatMessage] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        description="One message of the user, the question; messages of the system before it are part of the question.",
    )
    stream: bool | None = Field(None, description="Whether each step is sent as soon as it is accepted.")
    stream_options: StreamOptions | None = Field(None, description="Options of the stream.")
    max_completion_tokens: Whole | None = Field(
        None, ge=1, le=131_072, description="Number of tokens at which the solution ends, after the step with it."
    )
    max_tokens: Whole | None = Field(None, ge=1, le=131_072, description="Older name of `max_completion_tokens`.")
    temperature: float | None = Field(None, ge=0, le=2, description="Sampling temperature; 0 is greedy.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Probability mass of the most likely tokens to sample from."
    )
    seed: Whole | None = Field(None, ge=0, le=MAX_SEED, description="Seed of the sampling; drawn at random if omitted.")
    stop: (
        Annotated[
            list[Annotated[Text, Field(min_length=1, max_length=200)]],
            Field(max_length=MAX_STOPS),
            BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
        ]
        | None
    ) = Field(None, description="Texts; the solution ends before the first occurrence of one of them.")
    trim: TrimChoices | None = Field(None, description="Options of this service that OpenAI's API does not have.")

    user: str | None = Field(None, description="No effect.")
    safety_identifier: str | None = Field(None, description="No effect.")
    prompt_cache_key: str | None = Field(None, description="No effect: engines find common prefixes by themselves.")
    prompt_cache_retention: str | None = Field(None, description="No effect.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="No effect: there is one tier.")
    store: bool | None = Field(None, description="No effect: the record of every problem is stored.")
    metadata: Annotated[dict[Text, Text], Field(max_length=16)] | None = Field(
        None, description="Texts by name, which the response repeats; they are not stored."
    )
    parallel_tool_calls: bool | None = Field(None, description="No effect: there are no tools.")

    n: Annotated[Whole | None, _only([1], why=f"{_ONE_TEXT}; omit `n`, and send a request for each solution")] = Field(
        None, description="Number of solutions; only 1."
    )
    modalities: Annotated[list[str] | None, _only([["text"]], why=f"{_ONE_TEXT}; omit it")] = Field(
        None, description="Only text."
    )
    response_format: Annotated[
        dict[str, Any] | None,
        _only([{"type": "text"}], why=f"{_ONE_TEXT}, and no JSON; omit it, and read `trim.answer`"),
    ] = Field(None, description="Only text.")
    logprobs: Annotated[bool | None, _only([False], why="The record has no log-probabilities of tokens; omit it")] = (
        Field(None, description="Only false.")
    )
    top_logprobs: Annotated[Whole | None, _only([0], why="The record has no log-probabilities of tokens; omit it")] = (
        Field(None, description="Only 0.")
    )
    presence_penalty: Annotated[Whole | None, _only([0], why=_NO_PENALTY)] = Field(None, description="Only 0.")
    frequency_penalty: Annotated[Whole | None, _only([0], why=_NO_PENALTY)] = Field(None, description="Only 0.")
    logit_bias: Annotated[dict[str, float] | None, _only([{}], why=_NO_PENALTY)] = Field(
        None, description="Only an empty object."
    )
    tools: Annotated[list[Any] | None, _only([[]], why=_NO_TOOLS)] = Field(None, description="Only an empty list.")
    tool_choice: Annotated[str | None, _only(["none", "auto"], why=_NO_TOOLS)] = Field(
        None, description="Only `none` or `auto`."
    )
    functions: Annotated[list[Any] | None, _only([[]], why=_NO_TOOLS)] = Field(None, description="Only an empty list.")
    function_call: Annotated[str | None, _only(["none", "auto"], why=_NO_TOOLS)] = Field(
        None, description="Only `none` or `auto`."
    )
    audio: Annotated[None, _only([], why=f"{_ONE_TEXT}; omit it")] = Field(None, description="Only null.")
    prediction: Annotated[None, _only([], why="The small model drafts by itself; omit it")] = Field(
        None, description="Only null."
    )
    moderation: Annotated[None, _only([], why="This service moderates nothing; omit it")] = Field(
        None, description="Only null."
    )
    prompt_cache_options: Annotated[None, _only([], why="Engines find common prefixes by themselves; omit it")] = Field(
        None, description="Only null."
    )
    reasoning_effort: Annotated[
        None, _only([], why="How much a model thinks is set by the deployment; omit it, or set `trim.limits`")
    ] = Field(None, description="Only null.")
    verbosity: Annotated[None, _only([], why="The models know no verbosity; omit it")] = Field(
        None, description="Only null."
    )
    web_search_options: Annotated[None, _only([], why="The models search nothing; omit it")] = Field(
        None, description="Only null."
    )
