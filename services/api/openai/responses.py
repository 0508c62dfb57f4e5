"""Responses in OpenAI's form. What OpenAI's API does not have is within `trim`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from services.api.schemas.problems import Ledger, Policy
from shared.domain.roles import Author
from shared.domain.status import Status, StopReason
from shared.domain.verdict import Verdict

FinishReason = Literal["stop", "length", "content_filter"]

CompletionId = Annotated[str, Field(description="`chatcmpl-` and the id of the problem.")]
Created = Annotated[int, Field(description="Time of the submission, in seconds since 1970.")]
ModelName = Annotated[str, Field(description="Model as the request names it.")]
ChoiceIndex = Annotated[Literal[0], Field(description="Always 0: there is one solution.")]
Logprobs = Annotated[None, Field(description="Always null.")]


def _is_none(value: object) -> bool:
    return value is None


class ModelPolicy(BaseModel):
    """Policy that a model names."""

    name: str = Field(description="Name of the policy.")
    parameters: dict[str, Any] = Field(description="Parameters that the name of the model sets.")
    version: int | None = Field(description="Version of a fitted policy; null for a policy without versions.")


class Model(BaseModel):
    """A model: a policy that decides which of two models writes each step."""

    id: str = Field(description="Name of the model.")
    object: Literal["model"] = Field("model", description="Always `model`.")
    created: int = Field(description="Time, in seconds since 1970; for a fitted policy, that of its registration.")
    owned_by: Literal["trim"] = Field("trim", description="Always `trim`.")
    trim: ModelPolicy = Field(description="Policy that the model names.")


class ModelList(BaseModel):
    """Models that requests can name. Others exist: a name may end in any number that the policy accepts."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[Model] = Field(description="The models.")


class CompletionUsage(BaseModel):
    """Tokens of a completion. `trim.ledger` has all tokens that it cost, those of discarded drafts included."""

    prompt_tokens: int = Field(
        description="Input tokens that the small and the large model computed, without cached ones."
    )
    completion_tokens: int = Field(description="Tokens of the steps of the solution, counted or estimated.")
    total_tokens: int = Field(description="Sum of both.")


class Solution(BaseModel):
    """What this service knows of a solution beside its text."""

    problem_id: UUID = Field(description="Id of the problem; GET /v1/problems/{id} has its record.")
    status: Status = Field(description="Status of the problem; `cancelled` if a stop string ended the solution.")
    policy: Policy = Field(description="Policy that decided which steps the large model wrote.")
    arm: str | None = Field(description="Name of the arm that was drawn; null if the request named one policy.")
    steps: int = Field(description="Number of steps of the solution.")
    escalations: int = Field(description="Number of decisions to escalate.")
    answer: str | None = Field(description="Answer that the solution states; null if there is none.")
    verdict: Verdict | None = Field(description="Comparison of the answer with the reference.")
    stop_reason: StopReason | None = Field(description="Why the solution ends where it does; null if it was cancelled.")
    seed: int = Field(description="Seed of the sampling.")
    ledger: Ledger = Field(description="Tokens and calls that the problem used.")
    note: str | None = Field(description="What to know about the answer; null if there is nothing.")
    links: dict[str, str] = Field(description="Paths of the problem, its record and its cancellation.")


class CompletionMessage(BaseModel):
    """The solution."""

    role: Literal["assistant"] = Field("assistant", description="Always `assistant`.")
    content: str = Field(description="Steps of the solution, with a blank line between two of them.")
    reasoning_content: str | None = Field(
        None, exclude_if=_is_none, description="Steps that are thoughts; missing if there are none."
    )
    refusal: None = Field(None, description="Always null.")


class CompletionChoice(BaseModel):
    """The only choice of a completion."""

    index: ChoiceIndex = 0
    message: CompletionMessage = Field(description="The solution.")
    logprobs: Logprobs = None
    finish_reason: FinishReason = Field(
        description="`stop`: the models ended the solution, or a stop string did. `length`: a limit did. "
        "`content_filter`: the model's server filtered its response."
    )


class ChatCompletion(BaseModel):
    """A solution, as a completion in OpenAI's form."""

    id: CompletionId
    object: Literal["chat.completion"] = Field("chat.completion", description="Always `chat.completion`.")
    created: Created
    model: ModelName
    choices: list[CompletionChoice] = Field(description="The solution, as the only choice.")
    usage: CompletionUsage = Field(description="Tokens of the completion.")
    metadata: dict[str, str] | None = Field(None, description="Metadata of the request.")
    trim: Solution = Field(description="What OpenAI's API does not have.")


class StepSource(BaseModel):
    """Where the text of a chunk comes from."""

    step: int = Field(description="Index of the step, from 0.")
    author: Author = Field(description="Model that wrote the step.")
    score: float | None = Field(description="PRM score of the step; null if there is none.")


class ChunkDelta(BaseModel):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = Field(
        None, exclude_if=_is_none, description="`assistant` in the first chunk; missing in the others."
    )
    content: str | None = Field(
        None, exclude_if=_is_none, description="Text of a step, after the first one with the blank line before it."
    )
    reasoning_content: str | None = Field(None, exclude_if=_is_none, description="Text of a step that is a thought.")


class ChunkChoice(BaseModel):
    """The only choice of a chunk."""

    index: ChoiceIndex = 0
    delta: ChunkDelta = Field(description="What the chunk adds.")
    logprobs: Logprobs = None
    finish_reason: FinishReason | None = Field(None, description="Why the solution ended; null before the last chunk.")


class ChatCompletionChunk(BaseModel):
    """One event of a stream, in OpenAI's form."""

    id: CompletionId
    object: Literal["chat.completion.chunk"] = Field(
        "chat.completion.chunk", description="Always `chat.completion.chunk`."
    )
    created: Created
    model: ModelName
    choices: list[ChunkChoice] = Field(description="One choice; none in the chunk with the usage.")
    usage: CompletionUsage | None = Field(
        None, description="Tokens of the completion, in the last chunk, if the request asked for them."
    )
    trim: StepSource | Solution | None = Field(
        None,
        exclude_if=_is_none,
        description="The step that the chunk has; with the `finish_reason`, what is known of the solution.",
    )
