"""Where a page of a listing ended: text that says nothing to a client, and that only the same listing takes back."""

from __future__ import annotations

import base64
import json
from typing import Any

from shared.errors import PermanentError

_MAX_NUMBER = 2**31 - 1
"""Largest number in a cursor: what the database keeps in an integer."""


class BadCursor(PermanentError):
    """The cursor is not one that this listing gave; leave it out to begin at the start."""

    code = "bad_cursor"


def make_cursor(listing: str, *place: str | int) -> str:
    """Write down a place in a listing."""
    return base64.urlsafe_b64encode(json.dumps([listing, *place]).encode()).decode()


def read_cursor(listing: str, cursor: str, *kinds: type[str | int]) -> list[Any]:
    """Read a place in a listing: values of these kinds, the numbers such as the database can keep.

    Raises:
        BadCursor: It is no cursor, or one of another listing.
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
