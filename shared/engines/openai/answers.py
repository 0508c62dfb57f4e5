"""What a server answers, read and checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
from pydantic import AliasChoices, BaseModel, Field

from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR
from shared.engines.openai.errors import AnswerBrokenOff, AnswerWithheld


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    """Tokens of a request, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Those of `prompt_tokens` that were not computed again; 0 if the server does not say."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = Field(None, validation_alias=AliasChoices("stop_reason", "matched_stop"))
    """The stop string or end token that was met: `stop_reason` of vLLM, `matched_stop` of SGLang."""

    def finish(self) -> Finish:
        if self.finish_reason == "length":
            return Finish.LENGTH
        if self.finish_reason == "content_filter":
            raise AnswerWithheld
        if self.finish_reason == "abort":
            raise AnswerBrokenOff("The model's server gave up while it wrote; see its log.")
        if self.finish_reason != "stop":
            raise ValueError("an unknown finish_reason")
        return Finish.ENDED if self.is_named and self.stop_reason != SEPARATOR else Finish.SEPARATOR

    @property
    def is_named(self) -> bool:
        return "stop_reason" in self.model_fields_set


class _Chunk(BaseModel):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A completion that is over."""

    text: str
    """Without the stop string."""
    finish: Finish
    is_named: bool
    """Whether the server said what it stopped at; one that never does leaves open whether the model had ended."""
    tokens: int
    """Tokens decoded for it."""
    prompt_tokens: int
    cached_tokens: int


async def read_completion(response: httpx2.Response) -> Written:
    """Read the stream of a completion to its end, where the usage is.

    Raises:
        ValueError: It is no such stream, or the end is missing.
        AnswerBrokenOff: The server reports that it failed on the way.
        AnswerWithheld: The server's filter ended it.
    """
    text: list[str] = []
    finish: Finish | None = None
    is_named = False
    usage: Usage | None = None
    async for data in _events(response):
        chunk = _Chunk.model_validate_json(data)
        if chunk.error is not None:
            raise AnswerBrokenOff("The model's server failed while it wrote; see its log.")
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text.append(choice.text or (choice.delta and choice.delta.content) or "")
            if choice.finish_reason is not None:
                finish, is_named = choice.finish(), choice.is_named
    if finish is None or usage is None or usage.completion_tokens is None:
        raise ValueError("the stream has no end")
    return Written(
        text="".join(text),
        finish=finish,
        is_named=is_named,
        tokens=usage.completion_tokens,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
    )


async def _events(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events; lines end at line feeds only, as JSON may hold other line separators."""
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield data
