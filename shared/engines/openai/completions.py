"""Reads and checks the completion that a server streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from pydantic import BaseModel, ValidationError

from shared.domain.drafts import Finish
from shared.engines.openai.errors import IncompleteAnswer
from shared.engines.openai.events import EndOfStream, mended, read_values
from shared.engines.openai.finishing import read_finish
from shared.engines.openai.reasons import ReportedFailure
from shared.engines.openai.usage import Spread, Usage, estimate_tokens

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names under which servers send what the model thought, apart from what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished completion."""

    text: str
    """Without the stop string."""
    reasoning: str
    """What the model thought, if the server sends it apart from the text."""
    finish: Finish
    names_stop: bool
    """Whether the server reported what it stopped at; without that, the model may also have ended by itself."""
    tokens: int
    """Tokens decoded for it, hidden ones included, as the server counted them; 0 if it did not."""
    estimated_tokens: int
    """Tokens decoded for it, estimated because the server did not count them; otherwise 0."""
    spread: Spread
    """How these tokens are spread over what it says."""
    prompt_tokens: int
    """0 if the server did not count them."""
    cached_tokens: int
    logprobs: Sequence[float] | None
    """Log-probabilities of the tokens for which the server reported one; `None` if it reported none, or one that cannot
    be."""

    def without_last(self, characters: int) -> Completion:
        """Return the completion without the tokens of its last characters."""
        return replace(
            self,
            tokens=self.tokens - self.spread.part_of_last(self.tokens, characters),
            estimated_tokens=self.estimated_tokens - self.spread.part_of_last(self.estimated_tokens, characters),
        )


async def read_completion(response: httpx2.Response, *, streamed: Callable[[int], None]) -> Completion:
    """Read the stream of a completion to its end, where the usage is.

    Args:
        response: The response, its body not yet read.
        streamed: Is called with the number of tokens so far: the server's count if chunks carry one, or of chunks.

    Raises:
        ValueError: The body is not such a stream.
        IncompleteAnswer: The stream breaks off, or the server did while it was writing.
        AnswerWithheld: The server's content filter ended it.
        ReportedFailure: The server reports a failure in the body.
    """
    reading = _Reading()
    try:
        async for value in read_values(response):
            if isinstance(value, EndOfStream):
                reading.is_complete = True
            else:
                reading.take(value)
                streamed(reading.streamed_tokens)
    except ReportedFailure as failure:
        failure.has_begun = reading.streamed_tokens > 0
        raise
    return reading.completion()


@dataclass(slots=True)
class _Reading:
    """What has arrived of a completion."""

    is_complete: bool = False
    """Whether the server said that nothing follows."""
    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _finish: tuple[Finish, bool] | None = None
    _usage: Usage = field(default_factory=Usage)
    _chunks: int = 0
    """Number of values with text; most servers send one for each token."""
    _spread: Spread = field(default_factory=Spread)
    _logprobs: list[float | None] = field(default_factory=list)
    _has_choice: bool = False

    @property
    def streamed_tokens(self) -> int:
        """Tokens so far."""
        return self._usage.completion_tokens or self._chunks

    def take(self, value: Mapping[str, Any]) -> None:
        """Take a value of the stream."""
        if value.get("usage"):
            self._usage = Usage.read(value["usage"])
        choices = [choice for choice in _list(value.get("choices")) if isinstance(choice, dict)]
        has_text = False
        for choice in choices:
            self._has_choice = True
            text, reasoning = _said(choice)
            has_text = has_text or bool(text or reasoning)
            self._text.append(text)
            self._reasoning.append(reasoning)
            if choice.get("logprobs"):
                self._logprobs += _logprobs(choice["logprobs"])
            self._finish = read_finish(choice) or self._finish
            self._spread.characters += len(text) + len(reasoning)
        if has_text:
            self._chunks += 1
            self._spread.note(self.streamed_tokens)

    def completion(self) -> Completion:
        """Return the completion once its stream has ended."""
        if not self._has_choice:
            raise ValueError("the answer has no choice")
        if self._finish is None and not self.is_complete:
            raise IncompleteAnswer("The model's server broke off its answer before the end; check its log.")
        finish, names_stop = self._finish or (Finish.SEPARATOR, False)
        text, reasoning = mended("".join(self._text)), mended("".join(self._reasoning))
        counted = self._usage.completion_tokens or 0  # A model that writes nothing still decodes its end.
        estimate = max(1, self._chunks, estimate_tokens(text + reasoning))
        return Completion(
            text=text,
            reasoning=reasoning,
            finish=finish,
            names_stop=names_stop,
            tokens=counted,
            estimated_tokens=0 if counted else estimate,
            spread=self._spread,
            prompt_tokens=self._usage.prompt_tokens or 0,
            cached_tokens=self._usage.cached_tokens,
            logprobs=_usable(self._logprobs),
        )


def _said(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text of a choice, and what the server calls reasoning."""
    messages = (choice.get(name) for name in ("delta", "message"))
    message: Mapping[str, Any] = next((each for each in messages if isinstance(each, dict)), {})
    content = choice.get("text") or message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    reasoning = next((value for name in _REASONING if isinstance(value := message.get(name), str) and value), "")
    text = content if isinstance(content, str) else "".join(_strings(part.get("text") for part in parts))
    return text, reasoning + "".join(_thought(parts))


def _thought(parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what parts of a content call thinking, as Mistral's models send it."""
    for part in parts:
        for each in _list(part.get("thinking")):
            if isinstance(each, dict):
                yield from _strings([each.get("text")])


def _strings(values: Any) -> Iterator[str]:
    return (value for value in values if isinstance(value, str))


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


class _TokenLogprob(BaseModel):
    logprob: float | None


class _Logprobs(BaseModel):
    token_logprobs: list[float | None] | None = None
    """As OpenAI's completions report them."""
    content: list[_TokenLogprob] | None = None
    """As chat completions do, and llama.cpp's server always."""


def _logprobs(value: object) -> Sequence[float | None]:
    """Read log-probabilities; those of another form count as missing, because the text is usable without them."""
    try:
        logprobs = _Logprobs.model_validate(value)
    except ValidationError:
        return ()
    return logprobs.token_logprobs or [token.logprob for token in logprobs.content or ()]


def _usable(logprobs: Sequence[float | None]) -> Sequence[float] | None:
    """Return log-probabilities if there are any, and if all of them are finite numbers up to 0."""
    usable = [logprob for logprob in logprobs if logprob is not None and -math.inf < logprob <= 0]
    return usable if usable and len(usable) == len(logprobs) else None
