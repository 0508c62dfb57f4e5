"""Reads the bodies of requests: JSON in UTF-8, strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Self

from fastapi import Request

from shared.errors import PermanentError

MAX_DIGITS: Final = 1000
"""Maximum number of digits of a whole number; Python refuses to parse a few thousand."""

MAX_DEPTH: Final = 32
"""Maximum number of objects and lists inside each other."""

_JSON = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]+\+)?json")
_UTF_8 = ("utf-8", "utf8")


class MalformedBody(PermanentError):
    """The body cannot be read; send one JSON object in UTF-8."""

    code = "malformed_body"


class MalformedJson(PermanentError):
    """The body is not valid JSON; send one JSON object."""

    code = "malformed_json"


class UnsupportedContentEncoding(PermanentError):
    """The body is compressed, as the header `content-encoding` says; send it as it is, without this header."""

    code = "unsupported_content_encoding"


class UnsupportedMediaType(PermanentError):
    """The content type is not JSON in UTF-8; send the header `content-type: application/json`."""

    code = "unsupported_media_type"


class Number(float):
    """A number with a fraction or exponent. Its text keeps the digits that a float loses."""

    text: str

    def __new__(cls, text: str) -> Self:
        """Parse a number. Its zeros have no sign: `-0.0` and `0` ask for the same."""
        number = super().__new__(cls, float(text) + 0.0)
        number.text = text
        return number


class _TooDeep(MalformedJson):
    def __init__(self, what: str) -> None:
        super().__init__(f"The {what} has more than {MAX_DEPTH} objects and lists inside each other; send fewer.")


class JsonRequest(Request):
    """A request whose body is JSON in UTF-8.

    Python's parser also accepts UTF-16, UTF-32 and repeated names, which RFC 8259 excludes or warns of. It accepts NaN
    and Infinity too; the error about these names the field, so the schemas refuse them.
    """

    async def json(self) -> Any:
        """Read the body once.

        Raises:
            UnsupportedContentEncoding: The body is compressed.
            UnsupportedMediaType: The content type is not JSON in UTF-8.
            MalformedBody, MalformedJson: The body cannot be read.
        """
        if not hasattr(self, "_json"):
            if is_compressed(self):
                raise UnsupportedContentEncoding
            if not _is_json(",".join(self.headers.getlist("content-type"))):
                raise UnsupportedMediaType
            self._json = read_json(await self.body())
        return self._json

    def replace_json(self, value: object) -> None:
        """Have the framework read another value in place of the body."""
        self._json = value


def is_compressed(request: Request) -> bool:
    """Tell whether the body of a request is compressed, as its header says."""
    return ",".join(request.headers.getlist("content-encoding")).strip().lower() not in ("", "identity")


def read_json(body: bytes, *, what: str = "body") -> object:
    """Read one JSON object.

    Args:
        body: The object.
        what: Name of it in error messages.

    Raises:
        MalformedBody: It is empty, or not in UTF-8.
        MalformedJson: It is not valid JSON, or beyond the limits of this service.
    """
    if not body.strip():
        raise MalformedBody(f"The {what} is empty; send one JSON object.")
    try:
        value = json.loads(
            _text(body, what),
            parse_float=Number,
            parse_int=partial(_whole_number, what=what),
            object_pairs_hook=partial(_object, what=what),
        )
    except json.JSONDecodeError as error:
        place = f"{error.msg} at {'' if what == 'line' else f'line {error.lineno}, '}column {error.colno}"
        raise MalformedJson(f"The {what} is not valid JSON ({place}); send one JSON object.") from error
    except RecursionError as error:
        raise _TooDeep(what) from error
    if _is_deeper(value, MAX_DEPTH):
        raise _TooDeep(what)
    return value


def _is_json(content_type: str) -> bool:
    """Tell whether a content type is JSON (RFC 6839 defines the suffix) and names no character set except UTF-8."""
    media_type, *parameters = content_type.lower().split(";")
    given = [(name.strip(), value.strip(' \t"')) for name, _, value in (each.partition("=") for each in parameters)]
    return bool(_JSON.fullmatch(media_type.strip())) and all(
        value in _UTF_8 for name, value in given if name == "charset"
    )


def _text(body: bytes, what: str) -> str:
    if json.detect_encoding(body).startswith("utf-8"):
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MalformedBody(
                f"The {what} is not in UTF-8 (byte {error.start}); send one JSON object in UTF-8."
            ) from error
    raise MalformedBody(f"The {what} is in UTF-16 or UTF-32; send one JSON object in UTF-8.")


def _whole_number(text: str, *, what: str) -> int:
    if len(text) > MAX_DIGITS:
        raise MalformedJson(f"The {what} has a number of {len(text)} digits; the maximum is {MAX_DIGITS}.")
    return int(text)


def _object(pairs: Sequence[tuple[str, Any]], *, what: str) -> Mapping[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise MalformedJson(f"An object of the {what} has the field {repeated[:80]!r} twice; send it once.")
    return made


def _is_deeper(value: object, depth: int) -> bool:
    """Tell whether there are more objects and lists inside each other than `depth`."""
    level: list[Any] = [value]
    for _ in range(depth + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return True
