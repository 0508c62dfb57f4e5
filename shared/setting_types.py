"""Types of settings, and the checks of their values. No check quotes the value: it may hold a password."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import NoDecode

from shared.messages import MAX_PREFIX_BYTES
from shared.parameters import Parameters

MAX_QUESTION_CHARS = MAX_PREFIX_BYTES // 8
"""Largest value of `max_question_chars`.

A character takes up to 4 bytes of UTF-8, so the longest question fills at most half of the prefix at which a solution
ends. The other half holds as many steps as `max_tokens` allows, at 4 bytes a token.
"""

JSON_BYTES_PER_CHAR = 12
"""Largest size of one character in a JSON string: two escapes, such as `\\ud83d\\ude00`."""

OTHER_FIELDS_BYTES = 65_536
"""Room in a request body for everything besides one question."""


def holds_one_question(value: int, info: ValidationInfo) -> int:
    """Refuse a body limit that makes `max_question_chars` unreachable."""
    max_question_chars = info.data.get("max_question_chars", 0)
    needed = JSON_BYTES_PER_CHAR * max_question_chars + OTHER_FIELDS_BYTES
    if value < needed:
        raise ValueError(
            f"a request with a question of {max_question_chars} characters (TRIM_MAX_QUESTION_CHARS) takes up to "
            f"{needed} bytes; raise this limit or lower that one"
        )
    return value


def _base_url(value: str) -> str:
    if not value:
        return value
    try:
        parts = urlsplit(value)
        has_host, _ = bool(parts.hostname), parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("http", "https") or not has_host:
        raise ValueError("not a URL like http://127.0.0.1:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("credentials do not belong in the URL; set TRIM_OPENAI_API_KEY or OTEL_EXPORTER_OTLP_HEADERS")
    if parts.query or parts.fragment or any(character.isspace() for character in value):
        raise ValueError("query, fragment and white space do not belong in the URL")
    return value.rstrip("/")


def receiver_url(value: str) -> str:
    """Refuse the URL of a receiver that names the path which is added to it."""
    if value.rstrip("/").endswith("/v1/traces"):
        raise ValueError("/v1/traces does not belong in the URL, because it is added")
    return value


def _api_key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value().strip()
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("an API key holds only visible ASCII characters")
    return SecretStr(key)


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("not a JSON object") from None


def _unless_empty(value: object) -> object:
    """Return `None` for an empty text, which is all that a compose file can set a variable to by default."""
    return None if value == "" else value


def _template(value: str) -> str:
    if "{question}" not in value:
        raise ValueError("the placeholder {question} is missing")
    return value


MIN_SECRET_CHARS = 32
"""Minimum length of the secret of a key that signs messages."""

_KEY_NAME = re.compile(r"[a-z0-9_-]{1,32}")


def split_message_keys(value: str) -> dict[str, str]:
    """Split `name:secret,name:secret` into secrets by the names of their keys, in the order given.

    Raises:
        ValueError: It has another form. The message quotes no secret.
    """
    keys: dict[str, str] = {}
    for number, entry in enumerate(re.split(r"[,\s]+", value.strip()), 1):
        name, _, secret = entry.partition(":")
        if not _KEY_NAME.fullmatch(name) or not secret or not secret.isascii() or not secret.isprintable():
            raise ValueError(f"key {number} is not `name:secret`, with a name of a-z, 0-9, _ and -, in ASCII")
        if len(secret) < MIN_SECRET_CHARS:
            raise ValueError(f"the secret of the key {name!r} has fewer than {MIN_SECRET_CHARS} characters")
        if name in keys:
            raise ValueError(f"two keys have the name {name!r}")
        keys[name] = secret
    return keys


def _signing_keys(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        split_message_keys(value.get_secret_value())
    return value


Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
OptionalCount = Annotated[Count | None, BeforeValidator(_unless_empty)]
PositiveSeconds = Annotated[float, Field(gt=0)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
ServerParameters = Annotated[Parameters, NoDecode, BeforeValidator(_json)]
EngineArguments = Annotated[dict[str, Any], NoDecode, BeforeValidator(_json)]
Template = Annotated[str, AfterValidator(_template)]
ThinkingMode = Annotated[Literal["off", "steps"] | None, BeforeValidator(_unless_empty)]
ApiKey = Annotated[SecretStr, AfterValidator(_api_key)]
SigningKeys = Annotated[SecretStr | None, BeforeValidator(_unless_empty), AfterValidator(_signing_keys)]
