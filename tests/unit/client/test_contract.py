"""The client and the service agree: on every field of a response, every option of a request, and every path."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Required, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter

from services.api.app import create_app
from services.api.errors import ProblemDetails as ServiceProblemDetails
from services.api.schemas import health, policies, problems, record, submissions
from services.api.schemas.values import REASONS
from shared.settings import Settings
from shared.store.database import Database
from trim_client import AsyncClient, Client, calls, errors, options
from trim_client.models import health as our_health
from trim_client.models import policies as our_policies
from trim_client.models import problems as our_problems
from trim_client.models import record as our_record
from trim_client.models import values
from trim_client.policy_text import WRAPPERS

RESPONSES: list[tuple[type[BaseModel], type[BaseModel]]] = [
    (problems.Problem, our_problems.Problem),
    (problems.Batch, our_problems.Batch),
    (problems.SubmittedBatch, our_problems.SubmittedBatch),
    (record.Step, our_record.Step),
    (record.Decision, our_record.Decision),
    (record.AuditEntry, our_record.AuditEntry),
    (policies.PolicyDescription, our_policies.PolicyDescription),
    (policies.PolicyVersion, our_policies.PolicyVersion),
    (policies.PolicyArtefact, our_policies.PolicyArtefact),
    (health.Liveness, our_health.Liveness),
    (health.Readiness, our_health.Readiness),
    (ServiceProblemDetails, errors.ProblemDetails),
]
"""What the service returns, beside what the client reads; the parts of each are compared too."""

OURS_ALONE = {"SubmittedBatch.was_submitted_before"}
"""Fields that the client adds."""

Schema = Mapping[str, Any]


def schema_of(kind: type[BaseModel]) -> Schema:
    schema = TypeAdapter(kind).json_schema(mode="serialization", ref_template="{model}")
    return {**schema, "$defs": schema.get("$defs", {})}


def resolved(schema: Schema, defs: Schema) -> Schema:
    return defs[schema["$ref"]] if "$ref" in schema else schema


def members(schema: Schema, defs: Schema) -> list[Schema]:
    """Return what a value may be: the members of a union, each without a reference."""
    found = resolved(schema, defs)
    parts = found.get("anyOf") or found.get("oneOf")
    return [each for part in parts for each in members(part, defs)] if parts else [found]


def faults(theirs: Schema, ours: Schema, their_defs: Schema, our_defs: Schema, *, place: str) -> Iterator[str]:
    """Describe where a value of the service may be none for the client."""
    possible = members(ours, our_defs)
    for value in members(theirs, their_defs):
        if not any(fits(value, each) for each in possible):
            yield f"{place}: the service may send {value.get('type', value)}, the client reads {possible}"
        for each in possible:
            if value.get("type") == each.get("type") == "object" and "properties" in value:
                yield from field_faults(value, each, their_defs, our_defs)
            elif value.get("type") == each.get("type") == "array":
                yield from faults(value["items"], each["items"], their_defs, our_defs, place=f"{place}[]")
            elif isinstance(value.get("additionalProperties"), dict) and "additionalProperties" in each:
                inner, our_inner = value["additionalProperties"], each["additionalProperties"]
                if isinstance(our_inner, dict):
                    yield from faults(inner, our_inner, their_defs, our_defs, place=f"{place}{{}}")


def fits(theirs: Schema, ours: Schema) -> bool:
    if not ours or set(ours) <= {"title", "description"}:
        return True  # anything
    kinds = {theirs.get("type"), {"integer": "number"}.get(str(theirs.get("type")))}
    if ours.get("type") not in kinds:
        return False
    known = ours.get("enum") or ([ours["const"]] if "const" in ours else None)
    if known is not None:
        return set(theirs.get("enum") or [theirs.get("const")]) <= set(known)
    return ours.get("format") in {None, theirs.get("format")}


def field_faults(theirs: Schema, ours: Schema, their_defs: Schema, our_defs: Schema) -> Iterator[str]:
    name = ours["title"]
    for field, described in theirs["properties"].items():
        if field not in ours["properties"]:
            yield f"{name}.{field}: the client lacks it"
        else:
            ours_there = ours["properties"][field]
            yield from faults(described, ours_there, their_defs, our_defs, place=f"{name}.{field}")
    for field in ours["properties"].keys() - theirs["properties"].keys():
        if f"{name}.{field}" not in OURS_ALONE:
            yield f"{name}.{field}: the service does not send it"


def compared(theirs: type[BaseModel], ours: type[BaseModel]) -> list[str]:
    their_schema, our_schema = schema_of(theirs), schema_of(ours)
    return list(field_faults(their_schema, our_schema, their_schema["$defs"], our_schema["$defs"]))


@pytest.mark.parametrize(("theirs", "ours"), RESPONSES, ids=[theirs.__name__ for theirs, _ in RESPONSES])
def test_every_field_of_a_response_is_a_field_of_the_client_with_a_type_that_reads_it(
    theirs: type[BaseModel], ours: type[BaseModel]
) -> None:
    assert compared(theirs, ours) == []


def test_a_field_that_differs_is_found() -> None:
    class Theirs(BaseModel):
        kept: int
        lost: str
        changed: str | None
        inner: list[record.Scoring]

    class Scoring(BaseModel):
        tokens: int

    class Ours(BaseModel):
        kept: float
        changed: str
        inner: list[Scoring]
        added: int

    found = [each.partition(":")[0] for each in compared(Theirs, Ours)]
    assert {"Ours.lost", "Ours.changed", "Ours.added", "Scoring.model"} <= set(found)
    assert "Ours.kept" not in found


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Reason", REASONS),
        *(
            (name, [each.value for each in kind])
            for name, kind in (
                ("Status", problems.Status),
                ("StopReason", problems.StopReason),
                ("Verdict", problems.Verdict),
                ("Action", record.Action),
                ("DecidedBy", record.DecidedBy),
                ("Finish", record.Finish),
                ("Author", record.Author),
                ("Skip", record.Skip),
                ("Role", problems.WorkerRole),
                ("WhenPrmAway", problems.WhenPrmAway),
                ("WhenLargeAway", problems.WhenLargeAway),
                ("WhenSmallAway", problems.WhenSmallAway),
            )
        ),
    ],
)
def test_editors_offer_the_values_of_this_version_and_any_other_is_read(name: str, known: list[str]) -> None:
    alias = getattr(values, name)
    [literal] = [each for each in get_args(alias) if each is not str]
    assert set(get_args(literal)) == set(known)
    assert TypeAdapter(alias).validate_python("something_later") == "something_later"


# Requests

REQUESTS: list[tuple[type[BaseModel], Any]] = [
    (submissions.Choices, options.Options),
    (submissions.ProblemRequest, options.NewProblem),
    (submissions.PolicyChoice, options.PolicyChoice),
    (submissions.WrappersChoice, options.WrappersChoice),
    (submissions.LimitsChoice, options.LimitsChoice),
    (submissions.SamplingChoice, options.SamplingChoice),
    (submissions.ArmChoice, options.ArmChoice),
]


@pytest.mark.parametrize(("theirs", "ours"), REQUESTS, ids=[ours.__name__ for _, ours in REQUESTS])
def test_every_option_of_a_submission_is_one_of_the_client(theirs: type[BaseModel], ours: Any) -> None:
    assert set(typing.get_type_hints(ours)) == set(theirs.model_fields)
    required = {name for name, field in theirs.model_fields.items() if field.is_required()}
    # The service has a default for the name of a policy; a choice without one would name nothing.
    hints = typing.get_type_hints(ours, include_extras=True)
    assert {name for name, hint in hints.items() if get_origin(hint) is Required} - {"name"} == required - {"name"}


def test_policies_as_text_know_the_wrappers_from_parameters() -> None:
    assert set(submissions.WrappersChoice.model_fields) == WRAPPERS


@cache
def served() -> frozenset[str]:
    """List the requests that the service answers, with `{}` for each parameter of a path."""
    paths = create_app(Settings(), Database("postgresql://127.0.0.1:1/x")).openapi()["paths"]
    return frozenset(
        f"{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}" for path, found in paths.items() for method in found
    )


def test_every_request_of_the_client_is_one_that_the_service_answers() -> None:
    some_id = "0193ad2e-6a1c-7cc3-98c4-dc0c0c07398f"
    sent = [
        calls.submit_problem("What?", None, {}, None), calls.problem(some_id), calls.cancel_problem(some_id),
        calls.submit_batch([], {}, None, None), calls.batch(some_id), calls.cancel_batch(some_id), calls.policies(),
        calls.default_version("NAME"), calls.version("NAME", 987), calls.artefact("NAME", 987),
        calls.register_version("NAME", {}, b""), calls.make_default("NAME", 987), calls.retire("NAME", 987),
        calls.live(), calls.ready(),
    ]  # fmt: skip
    listed = [
        calls.problems(), calls.steps(some_id),
        calls.decisions(some_id), calls.audit(some_id), calls.batches(), calls.batch_problems(some_id),
        calls.versions("NAME", is_default=None),
    ]  # fmt: skip
    lines = [*(f"{each.method} {each.path}" for each in sent), *(f"GET {each.path}" for each in listed)]
    lines.append(f"GET {calls.problem_path(some_id)}/events")
    known = {re.sub(f"{some_id}|NAME|987", "{}", line) for line in lines}
    assert known <= served()


# The two clients


def nouns(kind: type) -> dict[str, type]:
    """Return the groups of methods of a client."""
    groups = {name: type(group) for name, group in vars(kind("http://127.0.0.1:1")).items() if name[0] != "_"}
    return {"": kind} | {name: group for name, group in groups.items() if name != "address"}


def methods(kind: type) -> dict[str, list[str]]:
    """Return the public methods of a class with the names and defaults of their parameters."""
    public = {
        name: inspect.signature(method).parameters.values()
        for name, method in vars(kind).items()
        if isinstance(method, types.FunctionType) and not name.startswith("_")
    }
    return {name: [f"{each.kind.name} {each.name} = {each.default}" for each in public[name]] for name in public}


def test_both_clients_have_the_same_methods() -> None:
    synchronous, asynchronous = nouns(Client), nouns(AsyncClient)
    assert list(synchronous) == list(asynchronous) == ["", "problems", "batches", "policies", "health"]
    for name, kind in synchronous.items():
        assert methods(kind) == methods(asynchronous[name])


def test_every_name_that_the_package_exports_exists() -> None:
    import trim_client

    assert all(hasattr(trim_client, name) for name in trim_client.__all__)
