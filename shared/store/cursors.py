"""Opaque cursors: each is valid only for the listing that issued it."""

from __future__ import annotations

import base64
import json
from typing import Any, Final
from uuid import UUID

from shared.errors import PermanentError

_MAX_NUMBER: Final = 2**31 - 1
"""Largest integer that the database stores."""


FIRST_ID: Final = UUID(int=0)
"""Comes before all ids."""

LAST_ID: Final = UUID(int=2**128 - 1)
"""Comes after all ids."""


class BadCursor(PermanentError):
    """The cursor was not issued by this listing; omit it to begin at the start."""

    code = "bad_cursor"


def make_cursor(listing: str, *place: str | int) -> str:
    """Encode a place in a listing."""
    return base64.urlsafe_b64encode(json.dumps([listing, *place]).encode()).decode()


def read_cursor(listing: str, cursor: str, *kinds: type[str | int]) -> list[Any]:
    """Decode a place in a listing: values of these kinds.

    Raises:
        BadCursor: It is not a cursor, it belongs to another listing, or a number is too large for the database.
    """
    place: list[Any]
    try:
        named, *place = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError) as error:
        raise BadCursor from error
    if named != listing or [type(each) for each in place] != list(kinds):
        raise BadCursor
    if any(isinstance(each, int) and abs(each) > _MAX_NUMBER for each in place):
        raise BadCursor
    return place


def read_id(listing: str, cursor: str) -> UUID:
    """Decode a cursor that holds an id.

    Raises:
        BadCursor: It is not a cursor of this listing.
    """
    (written,) = read_cursor(listing, cursor, str)
    try:
        return UUID(written)
    except ValueError as error:
        raise BadCursor from error
