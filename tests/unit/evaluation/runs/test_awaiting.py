"""A run reports what its problems wait for, once for each change, and only while none of them ends."""

from __future__ import annotations

from typing import Any

from evaluation.runs.awaiting import IDLE_LOOKS, Awaiting


def test_a_run_tells_of_each_role_that_its_problems_wait_for_once_and_of_its_return() -> None:
    readiness: dict[str, Any] | None = None
    told: list[str] = []
    awaiting = Awaiting(lambda: readiness, told.append)

    def looks(ended: int, **waiting: int) -> list[str]:
        nonlocal readiness
        readiness = {"parts": [{"name": name, "waiting": n, "detail": "Why."} for name, n in waiting.items()]}
        told.clear()
        for _ in range(IDLE_LOOKS):
            awaiting.look(ended)
        return list(told)

    assert looks(3, prm=7) == [], "problems may wait while others end"
    assert looks(3, prm=7, small=0) == ["Problems wait for prm: Why."]
    assert looks(3, prm=7, small=2) == ["Problems wait for small: Why."]
    assert looks(3, prm=0, small=2) == ["No problem waits for prm any more."]
    assert looks(4, prm=0, small=0) == ["No problem waits for small any more."]
    assert looks(4, small=2) == ["Problems wait for small: Why."]
    readiness = None
    awaiting.look(4)
    assert told == ["Problems wait for small: Why."]
