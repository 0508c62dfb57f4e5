"""A service without models that solves at once, remembers idempotency keys, and can fail at a chosen call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stack.client import ApiRefused, Unreachable

LEDGER = {
    "small_kept": 0, "small_discarded": 0, "small_wasted": 0, "small_estimated": 0, "small_in": 0, "large_out": 0,
    "large_wasted": 0, "large_estimated": 0, "large_in": 0, "prm_tokens": 0, "prm_estimated": 0, "small_calls": 0,
    "large_calls": 0, "prm_calls": 0,
}  # fmt: skip


class Killed(BaseException):
    """The process ends here, as by SIGKILL."""


class FakeService:
    """Stands in for `Api`. Problems with an odd question need the large model."""

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: dict[str, tuple[str, int]] = {}
        self.default_version = 1
        self.prm = "prm"
        self.max_batch_size = 1000
        self.calls = 0
        self.fail_at: Mapping[int, BaseException] = {}
        self.endings: dict[str, dict[str, Any]] = {}
        """Fields of all problems of a policy that end in another way."""

    def submit(self, problems: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any], *, key: str) -> str:
        if len(problems) > self.max_batch_size:
            self._fail()
            raise ApiRefused("Too many.", reason="batch_too_large")
        body = json.dumps([list(problems), dict(defaults)], sort_keys=True)
        known = self.keys.setdefault(key, (body, len(self.batches)))
        if known[0] != body:
            raise ApiRefused("The key belongs to another request.", reason="idempotency_conflict")
        if known[1] == len(self.batches):
            self.batches.append([self._solve(each, defaults, place) for place, each in enumerate(problems)])
            self.bodies.append(dict(defaults))
        self._fail()  # the answer is lost after the work is done
        return str(known[1])

    def get(self, path: str) -> Any:
        self._fail()
        match path.split("/")[1:]:
            case ["v1", "policies"]:
                return [{"name": name} for name in ("threshold", "pomdp", "small-only", "large-only")]
            case ["health", "ready"]:
                running = {"broker": [], "small": ["small"], "large": [], "prm": [self.prm]}
                return {"parts": [{"name": name, "models": models} for name, models in running.items()]}
            case ["v1", "problems", problem_id]:
                batch, place = map(int, problem_id.split("-"))
                return self.batches[batch][place]

    def readiness(self) -> dict[str, Any]:
        return {"parts": [{"name": name, "waiting": 0, "detail": ""} for name in ("broker", "small", "large", "prm")]}

    def batch(self, batch_id: str) -> dict[str, Any]:
        self._fail()
        problems = self.batches[int(batch_id)]
        statuses: dict[str, int] = {}
        for each in problems:
            statuses[each["status"]] = statuses.get(each["status"], 0) + 1
        return {"id": batch_id, "size": len(problems), "statuses": statuses}

    def items(self, path: str, *, count: int | None = None) -> Iterator[dict[str, Any]]:
        self._fail()
        match path.split("/")[2:]:
            case ["batches", batch_id, "problems"]:
                yield from self.batches[int(batch_id)][:count]
            case ["problems", problem_id, "audit"]:
                batch, place = map(int, problem_id.split("-"))
                yield from audit_of(self.batches[batch][place])
            case ["policies", "pomdp", "versions"]:
                models = {"small": "small", "large": "large", "prm": "prm"}
                yield {"version": 3, "is_default": False, "retired_at": None, "models": {**models, "prm": "other"}}
                yield {"version": 2, "is_default": False, "retired_at": "2026-01-01T00:00:00Z", "models": models}
                yield {"version": 1, "is_default": True, "retired_at": None, "models": models}

    def _fail(self) -> None:
        self.calls += 1
        if (error := self.fail_at.get(self.calls)) is not None:
            raise error

    def _solve(self, problem: Mapping[str, Any], defaults: Mapping[str, Any], place: int) -> dict[str, Any]:
        policy = defaults["policy"]
        name, is_hard = policy["name"], int(problem["question"].split()[-1]) % 2 == 1
        escalates = name == "large-only" or (name not in ("small-only",) and is_hard)
        is_right = escalates or not is_hard
        version = policy.get("version", self.default_version) if name == "pomdp" else None
        solved = {
            "id": f"{len(self.batches)}-{place}",
            "question": problem["question"],
            "erased_at": None,
            "status": "succeeded",
            "stop_reason": "final_answer",
            "failure": None,
            "answer": "7" if is_right else "8",
            "reference": problem["reference"],
            "verdict": "correct" if is_right else "incorrect",
            "policy": {"name": name, "version": version},
            "sampling": problem["sampling"],
            "steps": 1,
            "escalations": int(escalates),
            "ledger": {**LEDGER, "large_out": 10 * escalates, "small_kept": 10 * (not escalates)},
            "started_at": "2026-01-01T00:00:00Z",
            "finished_at": "2026-01-01T00:00:02.500000Z",
        }
        return {**solved, **self.endings.get(name, {})}


def audit_of(problem: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two decisions on the only step: a draft without words, and one that the policy decided on."""
    if problem["failure"]:
        return []
    work = {"waited_ms": 100.0, "worked_ms": 200.0, "worker": "w", "tokens": 5}
    scoring = {**work, "model": "prm"}
    action = "escalate" if problem["escalations"] else "accept"
    author = "large" if problem["escalations"] else "small"
    step = {**work, "step": 0, "author": author, "text": f"So \\boxed{{{problem['answer']}}}.", "model": author}
    return [
        {
            "decision": {
                "number": number, "step": 0, "action": action, "reason": "none", "value": 0.2, "compared_with": 0.5,
                "numbers": {}, "propensity": 1.0, "decided_by": "policy", "observation": {"score": 0.2},
                "draft": {**work, "model": "small", "text": "So \\boxed{8}."}, "scoring": scoring,
            },
            "accepted_step": step,
        }
        for number in range(2)
    ]  # fmt: skip


def outage(*calls: int) -> dict[int, BaseException]:
    """Calls that a service which is down does not answer."""
    return {call: Unreachable("No service answers.") for call in calls}
