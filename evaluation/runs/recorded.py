"""Recorded problems, as the API returns them, for replays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from evaluation.replay import RecordedDecision, RecordedProblem
from shared.domain.decisions import Action, DecidedBy, Decision, Observation
from shared.domain.options import Plan, Wrappers
from shared.domain.roles import WorkerRole
from shared.domain.status import Status
from shared.domain.verdict import Verdict
from shared.errors import PermanentError
from shared.policies.registry import build_routing
from stack.client import Api

_OBSERVATION = TypeAdapter(Observation)


def read_record(api: Api, problems: Iterable[Mapping[str, Any]]) -> Iterator[RecordedProblem]:
    """Read the decisions on problems.

    Args:
        api: The service.
        problems: The problems as the API returns them.
    """
    for problem in problems:
        yield recorded_problem(problem, list(api.items(f"/v1/problems/{problem['id']}/decisions")))


def recorded_problem(problem: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> RecordedProblem:
    """Build a recorded problem from the API's answers."""
    return RecordedProblem(
        problem_id=problem["id"],
        question=decisions[0]["observation"]["question_digest"] if decisions else problem["id"],
        plan=_plan(problem["policy"]),
        explores=problem["policy"]["wrappers"]["epsilon"] > 0,
        has_ended=problem["status"] in (Status.SUCCEEDED, Status.FAILED),
        is_solved=None if problem["reference"] is None else problem["verdict"] == Verdict.CORRECT,
        large_tokens=problem["ledger"]["large_out"],
        lost_large_tokens=problem["ledger"]["large_wasted"] + problem["ledger"]["large_estimated"],
        decisions=[recorded_decision(each) for each in decisions],
    )


def recorded_decision(row: Mapping[str, Any]) -> RecordedDecision:
    """Build a recorded decision from the API's answer."""
    work = {WorkerRole.SMALL: row["draft"], WorkerRole.PRM: row["scoring"]}
    return RecordedDecision(
        number=row["number"],
        step=row["step"],
        observation=_OBSERVATION.validate_python(row["observation"]),
        decision=Decision(
            action=Action(row["action"]),
            **{name: row[name] for name in ("reason", "value", "compared_with", "numbers", "propensity")},
        ),
        decided_by=DecidedBy(row["decided_by"]),
        models={role: part["model"] for role, part in work.items() if part is not None},
    )


def name_of(policy: Mapping[str, Any]) -> str:
    """Name a policy of the API with its version, parameters and wrappers, so that the same ones have the same name."""
    version = "" if policy["version"] is None else f"@{policy['version']}"
    wrappers = {name: value for name, value in policy["wrappers"].items() if value}
    options = [f"{name}={_plain(value)}" for name, value in {**policy["parameters"], **wrappers}.items()]
    return f"{policy['name']}{version}{':' if options else ''}{','.join(options)}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plan(policy: Mapping[str, Any]) -> Plan | None:
    try:
        return build_routing(policy["name"], policy["parameters"], Wrappers(**policy["wrappers"])).plan
    except (PermanentError, TypeError):
        return None
