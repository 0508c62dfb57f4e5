"""Policies as a person writes them: `threshold:threshold=0.7`, `pomdp@3:large_token_price=0.002,budget=300`."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from trim_client.errors import TrimClientError

_FORM: Final = re.compile(r"(?P<name>[a-z0-9-]+)(@(?P<version>[1-9][0-9]{0,9}))?(:(?P<options>.+))?")

WRAPPERS: Final = frozenset({"budget", "take_over", "epsilon"})
"""Options of every policy. They are written like parameters."""


class BadPolicyText(TrimClientError, ValueError):
    """A text is no policy such as `threshold:threshold=0.5` or `pomdp@3`."""


def parse_policy(text: str) -> dict[str, Any]:
    """Read `name[@version][:parameter=value,...]` and return the policy as a submission has it.

    Values are JSON where they can be read as JSON, otherwise text.

    Raises:
        BadPolicyText: The text has another form.
    """
    label = text.strip()
    if (found := _FORM.fullmatch(label)) is None:
        raise BadPolicyText(f"{label[:80]!r} is no policy such as `threshold:threshold=0.5` or `pomdp@3`.")
    options = _options(found["options"] or "", label=label)
    wrappers = {name: value for name, value in options.items() if name in WRAPPERS}
    chosen: dict[str, Any] = {
        "name": found["name"],
        "parameters": {name: value for name, value in options.items() if name not in WRAPPERS},
    }
    if wrappers:
        chosen["wrappers"] = wrappers
    if found["version"]:
        chosen["version"] = int(found["version"])
    return chosen


def _options(text: str, *, label: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not (name and equals and value) or name in options:
            raise BadPolicyText(f"{label[:80]!r}: write each parameter once, as `name=value`, separated by commas.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
