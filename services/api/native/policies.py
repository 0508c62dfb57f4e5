"""Endpoints of the policies that a submission can name, and of the versions of those that are fitted to models.

All tenants share them. Every reader sees all of them, and changing them needs the scope `admin`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response, status

from services.api.access.callers import ADMIN
from services.api.dependencies import Cursor, Limit, RootPath, WithDatabase, WithSettings, check_is_operator
from services.api.errors import BODY_REFUSALS, NotFound, refusals
from services.api.presenting import show_policy_artefact, show_policy_version
from services.api.route import CheckedRoute
from services.api.schemas.policies import PolicyArtefact, PolicyDescription, PolicyVersion, PolicyVersionPage
from services.api.schemas.submissions import MAX_VERSION
from shared.docstrings import docstring_of
from shared.domain.artefacts import EncodedArtefact
from shared.heartbeats import silence_s
from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES, check_artefact
from shared.store import policy_versions, queries
from shared.store.policy_versions import NoDefault, UnknownVersion

OPERATOR = [Depends(check_is_operator)]
"""Dependency of routes that change policies, which all tenants share."""

router = APIRouter(prefix="/v1/policies", tags=["policies"], route_class=CheckedRoute)

PolicyName = Annotated[str, Path(max_length=80, pattern="^[a-z0-9-]+$", description="Name of the policy.")]
Version = Annotated[int, Path(ge=1, le=MAX_VERSION, description="Number of the version.")]


@router.get("", responses=refusals())
def policies() -> list[PolicyDescription]:
    """List the policies that a submission can name."""
    return [
        PolicyDescription(
            name=name,
            revision=kind.revision,
            description=docstring_of(kind).split("\n\n")[0].replace("\n", " "),
            parameters=kind.model_json_schema(),
            has_versions=issubclass(kind, FittedPolicy),
        )
        for name, kind in sorted(POLICIES.items())
    ]


@router.get("/{name}/default", responses=refusals(404, 503))
def default(name: PolicyName, database: WithDatabase, settings: WithSettings) -> PolicyVersion:
    """Get the version that a submission without a version gets: the default for the running models."""
    _check_name(name)
    with database.session() as session, _not_found():
        running = policy_versions.running_models(session, silence_s=silence_s(settings))
        number = policy_versions.choose_version(session, name, None, running=running)
        return show_policy_version(policy_versions.read_version(session, name, number))


@router.get("/{name}/versions", responses=refusals(404, 503))
def versions(
    name: PolicyName,
    database: WithDatabase,
    is_default: Annotated[
        bool | None, Query(description="List only versions that are a default, or only others.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> PolicyVersionPage:
    """List the versions of a fitted policy, newest first."""
    _check_name(name)
    with database.session() as session:
        page = queries.list_policy_versions(session, name, is_default=is_default, limit=limit, cursor=cursor)
        return PolicyVersionPage(items=[show_policy_version(each) for each in page.items], next_cursor=page.next_cursor)


@router.post(
    "/{name}/versions",
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {"model": PolicyVersion, "description": "Version that has this artefact already."},
        **refusals(*BODY_REFUSALS, 404, 503),
    },
    openapi_extra=ADMIN,
    dependencies=OPERATOR,
)
def register(
    name: PolicyName, body: PolicyArtefact, response: Response, database: WithDatabase, root_path: RootPath
) -> PolicyVersion:
    """Register an artefact under the policy's next number; one that is known keeps its number and returns 200."""
    _check_name(name)
    artefact = _checked(name, body)
    with database.session() as session:
        registered = policy_versions.register(session, artefact)
        shown = show_policy_version(policy_versions.read_version(session, name, registered.version))
    response.headers["Location"] = f"{root_path}/v1/policies/{name}/versions/{registered.version}"
    if not registered.is_new:
        response.status_code = status.HTTP_200_OK
    return shown


@router.get("/{name}/versions/{version}", responses=refusals(404, 503))
def version(name: PolicyName, version: Version, database: WithDatabase) -> PolicyVersion:
    """Get a version of a fitted policy."""
    with database.session() as session, _not_found():
        return show_policy_version(policy_versions.read_version(session, name, version))


@router.get("/{name}/versions/{version}/artefact", responses=refusals(404, 503))
def artefact(name: PolicyName, version: Version, database: WithDatabase) -> PolicyArtefact:
    """Get the artefact of a version, as another service can register it."""
    with database.session() as session:
        stored = policy_versions.read_artefact(session, name, version)
    if stored is None:
        raise NotFound(f"The policy {name!r} has no version {version}; GET /v1/policies/{name}/versions lists them.")
    return show_policy_artefact(stored)


@router.post(
    "/{name}/versions/{version}/default", responses=refusals(404, 503), openapi_extra=ADMIN, dependencies=OPERATOR
)
def make_default(name: PolicyName, version: Version, database: WithDatabase) -> PolicyVersion:
    """Make a version the default for its models, in place of the present one."""
    with database.session() as session, _not_found():
        return show_policy_version(policy_versions.make_default(session, name, version))


@router.post(
    "/{name}/versions/{version}/retire", responses=refusals(404, 503), openapi_extra=ADMIN, dependencies=OPERATOR
)
def retire(name: PolicyName, version: Version, database: WithDatabase) -> PolicyVersion:
    """Withdraw a version from new submissions. Problems that have it keep it; it cannot return."""
    with database.session() as session, _not_found():
        return show_policy_version(policy_versions.retire(session, name, version, now=datetime.now(UTC)))


def _check_name(name: str) -> None:
    if name not in POLICIES:
        raise NotFound(f"There is no policy {name!r}; GET /v1/policies lists the policies.")


def _checked(name: str, body: PolicyArtefact) -> EncodedArtefact:
    """Read an artefact, and check that the policy can decide with it.

    Raises:
        BadArtefact: It is damaged or another policy's, the policy cannot decide with it, or it has no versions.
    """
    artefact = Artefact.read(json.dumps(body.card), body.arrays)
    check_artefact(name, artefact)
    # The card holds the digest of these bytes, and another encoding of the same arrays has another one.
    return replace(artefact.encoded, arrays=body.arrays)


@contextmanager
def _not_found() -> Iterator[None]:
    try:
        yield
    except (NoDefault, UnknownVersion) as error:
        raise NotFound(str(error)) from error
