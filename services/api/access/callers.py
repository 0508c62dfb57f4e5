"""Who sends a request, and which scope it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from starlette.types import Scope as AsgiScope

from services.api.access.errors import ScopeMissing
from shared.domain.scopes import Scope
from shared.store.tables import DEFAULT_TENANT

SCHEME: Final = "key"
"""Name of the keys among the security schemes of the OpenAPI description."""

ADMIN: Final[dict[str, Any]] = {"security": [{SCHEME: [Scope.ADMIN.value]}]}
"""`openapi_extra` of a route that needs the scope `admin`."""

OPEN: Final[dict[str, Any]] = {"security": []}
"""`openapi_extra` of a route that needs no key. `Access` must know its path too."""

_CALLER: Final = "trim.caller"

_READING: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    tenant_id: UUID
    scopes: frozenset[Scope]
    prefix: str | None = None
    """Prefix of its key; `None` without one."""


ANYONE: Final = Caller(DEFAULT_TENANT, frozenset(Scope))
"""Who sends a request without a key, where none is needed."""


def set_caller(scope: AsgiScope, caller: Caller | None) -> None:
    """Record who sends a request; `None` on a path that needs no key."""
    scope[_CALLER] = caller


def caller_of(scope: AsgiScope) -> Caller | None:
    """Return who sends a request; `None` on a path that needs no key, for a request without one."""
    caller: Caller | None = scope[_CALLER]
    return caller


def scope_needed(method: str, described: Mapping[str, Any] | None) -> Scope | None:
    """Return the scope that a route needs: `read` to read and `submit` otherwise, unless it names another one.

    Args:
        method: Method of the request.
        described: The route's `openapi_extra`, or its operation in the OpenAPI description.
    """
    security = (described or {}).get("security")
    if security is None:
        return Scope.READ if method in _READING else Scope.SUBMIT
    return Scope(security[0][SCHEME][0]) if security else None


def check_scope(scope: AsgiScope) -> None:
    """Check that who sends a request may use the route that it leads to.

    Raises:
        ScopeMissing: The key lacks the scope that the route needs.
    """
    needed, caller = scope_needed(scope["method"], scope["route"].openapi_extra), caller_of(scope)
    if needed is None:
        return
    assert caller is not None, "every route that needs a scope is behind `Access`"
    if needed not in caller.scopes:
        raise ScopeMissing(f"The key lacks the scope `{needed}`, which this request needs; use a key that has it.")
