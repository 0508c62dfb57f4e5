"""Help with names that do not exist."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

MAX_NAME_CHARS = 80
"""Number of characters of a name that are compared: names come from outside."""


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the nearest of the known names, or `None` if none is near."""
    return next(iter(get_close_matches(name[:MAX_NAME_CHARS], known, n=1)), None)


def suggest(name: str, known: Collection[str]) -> str:
    """Return the end of a sentence that names the nearest of the known names, or all of them if none is near."""
    if near := nearest(name.lower(), known):
        return f"did you mean `{near}`?"
    return f"the names are {', '.join(f'`{each}`' for each in known)}." if known else "none is allowed here."
