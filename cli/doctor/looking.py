"""Looks at servers at the same time, and waits for none of them longer than a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from shared.errors import RetryableError, TrimError

LIMIT_S: Final = 8.0
"""Seconds after which a server that has not answered counts as away: all of them together."""


class NoAnswer(RetryableError):
    """It did not answer in time; check its address, and firewalls on the way."""

    code = "no_answer"


Seen = object | TrimError


def look_at_all(looks: Mapping[str, Callable[[], object]], *, limit_s: float = LIMIT_S) -> Mapping[str, Seen]:
    """Call functions at the same time, each in a thread that does not keep the process from ending.

    Returns:
        For each, what it returned, or why it failed: `NoAnswer` after the limit. Other exceptions than typed ones are
        raised here.
    """
    until = time.monotonic() + limit_s
    seen: dict[str, object] = {}
    threads = []
    for name, look in looks.items():
        thread = threading.Thread(target=_look, args=(name, look, seen), name=f"look at {name}", daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    found = dict(seen)  # A thread that is late may still write.
    for each in found.values():
        if isinstance(each, Exception) and not isinstance(each, TrimError):
            raise each
    return {name: found.get(name, NoAnswer(f"It did not answer within {limit_s:.0f} s.")) for name in looks}


def _look(name: str, look: Callable[[], object], seen: dict[str, object]) -> None:
    try:
        seen[name] = look()
    except Exception as error:  # noqa: BLE001 - the caller raises it, in its own thread
        seen[name] = error
