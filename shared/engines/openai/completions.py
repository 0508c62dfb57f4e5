"""Reads and checks the completion that a server streams."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import httpx2
from pydantic import AliasChoices, BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR
from shared.engines.openai.errors import AnswerWithheld, IncompleteAnswer


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    """Tokens of a request, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Those of `prompt_tokens` that were not computed again; 0 if the server does not report them."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class _Delta(BaseModel):
    content: str | None = None


class _TokenLogprob(BaseModel):
    logprob: float | None


class _Logprobs(BaseModel):
    token_logprobs: list[float | None] | None = None
    """As OpenAI's completions report them."""
    content: list[_TokenLogprob] | None = None
    """As chat completions do, and llama.cpp's server always."""

    @property
    def values(self) -> list[float | None]:
        return self.token_logprobs or [token.logprob for token in self.content or ()]


def _or_missing(value: Any, validate: ValidatorFunctionWrapHandler) -> _Logprobs | None:
    """Take log-probabilities of another form as missing: the text is usable without them."""
    try:
        logprobs: _Logprobs | None = validate(value)
    except ValidationError:
        return None
    return logprobs


class _Choice(BaseModel):
    text: str | None = None
    delta: _Delta | None = None
    logprobs: Annotated[_Logprobs | None, WrapValidator(_or_missing)] = None
    finish_reason: str | None = None
    stop_reason: int | str | None = Field(None, validation_alias=AliasChoices("stop_reason", "matched_stop"))
    """The stop string or end token that was met: `stop_reason` of vLLM, `matched_stop` of SGLang."""

    @property
    def content(self) -> str:
        return self.text or (self.delta and self.delta.content) or ""

    def finish(self) -> Finish:
        match self.finish_reason:
            case "length":
                return Finish.LENGTH
            case "stop":
                return Finish.ENDED if self.names_stop and self.stop_reason != SEPARATOR else Finish.SEPARATOR
            case "content_filter":
                raise AnswerWithheld
            case "abort":
                raise IncompleteAnswer("The model's server aborted the request while it was writing; check its log.")
            case _:
                raise ValueError("an unknown finish_reason")

    @property
    def names_stop(self) -> bool:
        return "stop_reason" in self.model_fields_set


class _Chunk(BaseModel):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished completion."""

    text: str
    """Without the stop string."""
    finish: Finish
    names_stop: bool
    """Whether the server reported what it stopped at; without that, the model may also have ended by itself."""
    tokens: int
    """Tokens decoded for it."""
    prompt_tokens: int
    cached_tokens: int
    logprobs: Sequence[float] | None
    """Log-probabilities of the tokens for which the server reported one; `None` if it reported none, or one that cannot
    be."""


async def read_completion(response: httpx2.Response, *, streamed: Callable[[int], None]) -> Completion:
    """Read the stream of a completion to its end, where the usage is.

    Args:
        response: The response, its body not yet read.
        streamed: Is called with the number of tokens so far: the server's count if chunks carry one, or of chunks.

    Raises:
        ValueError: The body is not such a stream, or its end is missing.
        IncompleteAnswer: The server reports that it failed while it was writing.
        AnswerWithheld: The server's content filter ended it.
    """
    text: list[str] = []
    finish: Finish | None = None
    names_stop = False
    usage: Usage | None = None
    logprobs: list[float | None] = []
    tokens = 0
    async for data in _events(response):
        chunk = _read_chunk(data)
        usage = chunk.usage or usage
        tokens += any(choice.content for choice in chunk.choices)
        streamed(tokens if usage is None or usage.completion_tokens is None else usage.completion_tokens)
        for choice in chunk.choices:
            text.append(choice.content)
            logprobs += choice.logprobs.values if choice.logprobs else ()
            if choice.finish_reason is not None:
                finish, names_stop = choice.finish(), choice.names_stop
    if finish is None or usage is None or usage.completion_tokens is None:
        raise ValueError("the stream has no end")
    return Completion(
        text="".join(text),
        finish=finish,
        names_stop=names_stop,
        tokens=usage.completion_tokens,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        logprobs=_usable(logprobs),
    )


def _read_chunk(data: bytes) -> _Chunk:
    chunk = _Chunk.model_validate_json(data)
    if chunk.error is not None:
        raise IncompleteAnswer("The model's server failed while it was writing; check its log.")
    return chunk


def _usable(logprobs: Sequence[float | None]) -> Sequence[float] | None:
    """Return log-probabilities if there are any, and if all of them are finite numbers up to 0."""
    usable = [logprob for logprob in logprobs if logprob is not None and -math.inf < logprob <= 0]
    return usable if usable and len(usable) == len(logprobs) else None


async def _events(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events.

    Lines end at line feeds only, because JSON may contain the other line separators of Unicode.
    """
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield data
