"""Recorded problems, as the API returns them, for replays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from evaluation.replay import RecordedDecision, RecordedProblem
from shared.domain.decisions import Action, DecidedBy, Decision, Observation
from shared.domain.options import Plan, Wrappers
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.domain.verdict import Verdict
from shared.errors import PermanentError
from shared.policies.registry import build_routing
from stack.client import Api

_OBSERVATION = TypeAdapter(Observation)


def read_record(api: Api, problem: Mapping[str, Any]) -> RecordedProblem:
    """Read the decisions on a problem.

    Args:
        api: The service.
        problem: The problem as the API returns it.
    """
    audit = api.items(f"/v1/problems/{problem['id']}/audit")
    decisions = [_recorded_decision(each["decision"], each["accepted_step"]) for each in audit]
    return RecordedProblem(
        problem_id=problem["id"],
        question=decisions[0].observation.question_digest if decisions else problem["id"],
        plan=_plan(problem["policy"]),
        explores=problem["policy"]["wrappers"]["epsilon"] > 0,
        has_ended=problem["status"] in (Status.SUCCEEDED, Status.FAILED),
        is_solved=None if problem["reference"] is None else problem["verdict"] == Verdict.CORRECT,
        large_tokens=problem["ledger"]["large_out"],
        lost_large_tokens=problem["ledger"]["large_wasted"] + problem["ledger"]["large_estimated"],
        decisions=decisions,
    )


def _recorded_decision(row: Mapping[str, Any], step: Mapping[str, Any] | None) -> RecordedDecision:
    is_large = step is not None and step["author"] == Author.LARGE
    work = {
        WorkerRole.SMALL: row["draft"],
        WorkerRole.PRM: row["scoring"],
        WorkerRole.LARGE: step if is_large else None,
    }
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
