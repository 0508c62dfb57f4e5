"""Reads the reason of a refusal or a failure, in whatever form a server sends it.

A reason may quote the question, a step or a key, so it is shown only after `shown` has removed these.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

_FAILURES = ("error", "errors", "error_type", "error_message", "error_msg", "error_code", "detail", "message", "code")
"""Names under which servers report failures, beside or instead of OpenAI's `error`."""

_SAID = (*_FAILURES, "details", "msg", "type", "status", "reason", "title", "param", "loc")
"""Names of what is read of a failure; other fields, such as `input`, quote the request."""

_DEPTH = 8
"""Maximum depth to which a failure is read; a proxy may quote the body of the server behind it."""

_TITLE = re.compile(r"<(title|h1)[^>]*>(?P<text>.*?)</\1>", re.I | re.S)
_TAG = re.compile(r"<[^>]*>")
_SPACES = re.compile(r"\s+")

_SHOWN_CHARS = 160
_QUOTED_CHARS = 6
"""Characters in a row that a reason may not share with the request."""
_SECRET = re.compile(r"\b(?:sk|pk|key|bearer|token)[-_ :=]+\S{6,}|\S{28,}", re.I)
"""Keys, and whatever else is too long to be a word."""

_TOO_LONG = re.compile(
    r"context.{0,40}(length|size|window|limit|overflow)|(length|size|window|limit).{0,40}context"
    r"|\bcontext (is|the) \d|exceed context"
    r"|max\w* (model|prompt|input) (len|tokens)"
    r"|(input|prompt|messages?|inputs|request|tokens?)\b.{0,60}(\btoo (long|large|big|many)\b)"
    r"|too many (input |prompt )?tokens"
    r"|(input|prompt|inputs|messages|request)\b.{0,60}\b(exceed\w*|longer than|must have less|greater than)\b"
    r".{0,60}\b(length|tokens?|limit|max\w*)\b"
    r"|range of input length|above max length"
    r"|reduce (the |your )?(length|size) of (the |your )?(messages?|prompt|input)",
    re.I,
)
"""Matches the refusal of an input that is too long for the model; servers share no code and no wording for it."""

_WITH_STEP = re.compile(
    r"(for|in) (the|your) completion|fewer output tokens"
    r"|max (completion |new |output )?tokens\b.{0,40}(too large|must be (less|at most|no more|<)|exceed)"
    r"|(inputs?|input (length|tokens)|prompt)\W.{0,20}(\+|\band\b).{0,6}max (new |output |completion )?tokens",
    re.I,
)
"""Matches the refusal of an input that leaves too little room for `max_tokens`, from servers that do not write less."""

_UNSUPPORTED = re.compile(
    r"unsupported|not support|n[o']t (be )?(permitted|allowed|accepted|available|recognized|compatible)|unrecognized"
    r"|unknown|unexpected|extra (inputs|fields|forbidden)|deprecated|only the default|no longer"
    r"|(invalid|not a valid) (request )?(parameter|argument|field|property|keyword|option)"
    r"|cannot be (set|used|specified)|must be (1|unset|omitted|null)\b",
    re.I,
)

_NAMED = (
    r"['\"`]NAME['\"`]|(^|\. )NAME(\. |$)"
    r"|\b(parameters?|arguments?|fields?|property|keys?|options?|supplied)\W+NAME\b"
    r"|\bNAME\W+(parameter|argument|field|option|is (not|no|un|de)|isn|not|un|does|cannot|must)"
)
"""Matches a parameter where it is named as one: in quotes, by itself, or beside such a word."""

_BUSY = re.compile(r"rate.?limit|overload|too many requests|capacity|queue.{0,20}full|throttl|busy", re.I)


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure, as a server reports it."""

    reason: str
    """All that the server reports, with spaces for underscores; never shown as it is."""
    status: int | None = None
    """The HTTP status that it names inside the body, if it names one."""

    @property
    def is_too_long(self) -> bool:
        """Whether the input does not fit the model's context."""
        return _TOO_LONG.search(self.reason) is not None

    @property
    def has_no_room_for_step(self) -> bool:
        """Whether input and step together do not fit it."""
        return _WITH_STEP.search(self.reason) is not None

    @property
    def is_busy(self) -> bool:
        """Whether the server has no capacity at the moment."""
        busy = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
        return self.status in busy or (self.status is None and _BUSY.search(self.reason) is not None)

    def refused(self, names: Iterable[str]) -> list[str]:
        """Return those of some parameters that the server says it does not support.

        Args:
            names: Names of parameters; `outer.inner` is a parameter inside another one, which is then left alone.
        """
        if _UNSUPPORTED.search(self.reason) is None:
            return []
        named = [name for name in names if self._names(name)]
        return [name for name in named if not any(other.startswith(f"{name}.") for other in named)]

    def _names(self, name: str) -> bool:
        """Tell whether the reason names a parameter, which may also be an ordinary word."""
        words = name.rpartition(".")[2].replace("_", " ")
        if " " in words:
            return re.search(rf"\b{words}\b", self.reason) is not None
        return re.search(_NAMED.replace("NAME", words), self.reason, re.I) is not None


class ReportedFailure(Exception):
    """A server reports a failure inside an answer of status 200; `Server` turns it into one of our errors."""

    def __init__(self, failed: Failed) -> None:
        super().__init__("The server reports a failure.")
        self.failed = failed
        self.has_begun = False
        """Whether the server had begun to write."""


def find_failure(value: Mapping[str, Any], *, is_named_error: bool = False) -> None:
    """Raise `ReportedFailure` if a JSON object is the report of a failure, and not a part of an answer."""
    says_error = bool(value.get("error")) or is_named_error or value.get("object") == "error"
    if says_error or (not _has_answer(value) and any(value.get(name) for name in _FAILURES)):
        raise ReportedFailure(read_failure(value))


def _has_answer(value: Mapping[str, Any]) -> bool:
    return bool(value.get("choices") or value.get("data") or value.get("usage"))


def read_failure(content: Mapping[str, Any] | str) -> Failed:
    """Read why a server failed from a JSON object, or from a body that may be JSON, a page in HTML, or text."""
    value: object = content
    if isinstance(content, str):
        value = content
        with suppress(ValueError):
            value = json.loads(content)
    said = list(_texts(value, depth=_DEPTH)) if isinstance(value, dict | list) else [_plain(str(value))]
    numbers = [int(text) for text in said if text.isdecimal() and len(text) == len("500")]
    status = next((number for number in numbers if HTTPStatus.BAD_REQUEST <= number < 600), None)  # noqa: PLR2004
    return Failed(". ".join(dict.fromkeys(text.rstrip(". ") for text in said)).replace("_", " "), status)


def shown(failed: Failed, *, request: Sequence[str]) -> str:
    """Return the reason as it may be shown: short, without keys and without what it has in common with the request.

    Args:
        failed: What the server says.
        request: Texts of the request that must not be shown.
    """
    reason = _SPACES.sub(" ", _SECRET.sub("…", failed.reason)).strip()[:_SHOWN_CHARS]
    is_quoted = [False] * len(reason)
    plain = [_SPACES.sub(" ", text.replace("_", " ")) for text in request]
    for begin in range(len(reason) - _QUOTED_CHARS + 1):
        piece = reason[begin : begin + _QUOTED_CHARS]
        if any(piece in text for text in plain):
            is_quoted[begin : begin + _QUOTED_CHARS] = [True] * _QUOTED_CHARS
    kept = "".join("…" if quoted else character for character, quoted in zip(reason, is_quoted, strict=True))
    return re.sub("…[… ]*", "… ", kept).strip(" .")


def texts_of(body: object) -> Iterator[str]:
    """Yield all texts in the body of a request."""
    match body:
        case str():
            yield body
        case Mapping():
            for value in body.values():
                yield from texts_of(value)
        case Sequence():
            for value in body:
                yield from texts_of(value)
        case _:
            return


def _texts(value: object, *, depth: int) -> Iterator[str]:
    """Yield what a failure says, in the order in which it does."""
    if depth == 0 or value is None or isinstance(value, bool):
        return
    if isinstance(value, dict):
        for name in _SAID:
            if name in value:
                yield from _texts(value[name], depth=depth - 1)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, depth=depth - 1)
    elif text := _plain(str(value)):
        nested = None
        if text.startswith("{"):  # A proxy that quotes the body of the server behind it.
            with suppress(ValueError):
                nested = json.loads(text)
        if isinstance(nested, dict):
            yield from _texts(nested, depth=depth - 1)
        else:
            yield text


def _plain(text: str) -> str:
    """Return the title of a page in HTML, and other text without tags."""
    if "<" in text and (title := _TITLE.search(text)) is not None:
        text = title["text"]
    return html.unescape(_SPACES.sub(" ", _TAG.sub(" ", text) if "</" in text else text)).strip()
