"""Creates keys with access to the database alone, for the entry point."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from pydantic import ValidationError

from services.api.schemas.access import KeyRequest
from shared.domain.scopes import Scope
from shared.errors import PermanentError
from shared.store.access import NewKey, create_key, find_tenant
from shared.store.compatibility import read_schema
from shared.store.database import Database

_DAY_S: Final = 86_400


class UnusableKey(PermanentError):
    """A key like this cannot be created."""

    code = "invalid_request"


def create(
    database: Database, name: str, *, tenant: str, scopes: Collection[Scope], expires_in_days: float | None
) -> NewKey:
    """Create a key.

    Args:
        database: The database.
        name: Name of the key.
        tenant: Name or id of its tenant.
        scopes: What it allows.
        expires_in_days: Days until it expires; `None` if it does not.

    Raises:
        UnusableKey: The name or the lifetime is one that the API refuses too, or there is no such tenant.
        SchemaOutdated, CodeOutdated: The database has no tables for keys.
    """
    lifetime_s = None if expires_in_days is None else expires_in_days * _DAY_S
    try:
        checked = KeyRequest(name=name, scopes={*scopes}, expires_in_s=lifetime_s)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UnusableKey(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    with database.session() as session:
        if (outdated := read_schema(session.connection()).error) is not None:
            raise outdated
        if (row := find_tenant(session, tenant)) is None:
            raise UnusableKey(f"There is no tenant {tenant!r}; GET /v1/tenants lists the tenants.")
        return create_key(session, row.id, **dict(checked))
