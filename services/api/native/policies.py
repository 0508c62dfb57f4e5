"""Endpoints of the policies that a submission can name, and of the versions of those that are fitted to models."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path

from services.api.dependencies import Cursor, Limit, WithDatabase
from services.api.errors import RESPONSES, NotFound
from services.api.presenting import show_policy_version
from services.api.schemas.policies import PolicyDescription, PolicyVersion, PolicyVersionPage
from services.api.schemas.submissions import MAX_VERSION
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES
from shared.store import policy_versions, queries
from shared.store.policy_versions import UnknownVersion

router = APIRouter(prefix="/v1/policies", tags=["policies"], responses=RESPONSES)

PolicyName = Annotated[str, Path(max_length=80, pattern="^[a-z0-9-]+$", description="Name of the policy.")]
Version = Annotated[int, Path(ge=1, le=MAX_VERSION, description="Number of the version.")]


@router.get("")
def policies() -> list[PolicyDescription]:
    """List the policies that a submission can name."""
    return [
        PolicyDescription(
            name=name,
            revision=kind.revision,
            description=(inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
            parameters=kind.model_json_schema(),
            has_versions=issubclass(kind, FittedPolicy),
        )
        for name, kind in sorted(POLICIES.items())
    ]


@router.get("/{name}/versions")
def versions(name: PolicyName, database: WithDatabase, cursor: Cursor = None, limit: Limit = 50) -> PolicyVersionPage:
    """List the versions of a fitted policy, newest first."""
    if name not in POLICIES:
        raise NotFound(f"There is no policy {name!r}; GET /v1/policies lists the policies.")
    with database.session() as session:
        page = queries.list_policy_versions(session, name, limit=limit, cursor=cursor)
        return PolicyVersionPage(items=[show_policy_version(each) for each in page.items], next_cursor=page.next_cursor)


@router.get("/{name}/versions/{version}")
def version(name: PolicyName, version: Version, database: WithDatabase) -> PolicyVersion:
    """Get a version of a fitted policy."""
    with database.session() as session, _not_found():
        return show_policy_version(policy_versions.read_version(session, name, version))


@router.post("/{name}/versions/{version}/default")
def make_default(name: PolicyName, version: Version, database: WithDatabase) -> PolicyVersion:
    """Make a version the default for its models, in place of the present one."""
    with database.session() as session, _not_found():
        return show_policy_version(policy_versions.make_default(session, name, version))


@router.post("/{name}/versions/{version}/retire")
def retire(name: PolicyName, version: Version, database: WithDatabase) -> PolicyVersion:
    """Withdraw a version from new submissions. Problems that have it keep it; it cannot return."""
    with database.session() as session, _not_found():
        return show_policy_version(policy_versions.retire(session, name, version, now=datetime.now(UTC)))


@contextmanager
def _not_found() -> Iterator[None]:
    try:
        yield
    except UnknownVersion as error:
        raise NotFound(str(error)) from error
