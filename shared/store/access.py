"""Keys of the API and the tenants that they belong to.

A key's text is `trim_<prefix>_<secret>`. It leaves the process once, in the response that creates it. The database has
its prefix, by which it is found and listed, and the SHA-256 of the whole text. All times are the database's.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Double,
    Select,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    exists,
    extract,
    false,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from shared.domain.scopes import Scope
from shared.errors import PermanentError
from shared.store.access_tables import KeyRow, TenantRow
from shared.store.cursors import BadCursor, make_cursor, read_cursor
from shared.store.queries import Page

_SECRET_BYTES: Final = 32
_PREFIX_BYTES: Final = 5

_KEY: Final = re.compile(rf"trim_([0-9a-f]{{{2 * _PREFIX_BYTES}}})_[0-9a-f]{{{2 * _SECRET_BYTES}}}")

USE_RECORDED_EVERY: Final = timedelta(minutes=1)
"""Time for which a recorded use of a key stays the newest."""

Listed = TypeVar("Listed", KeyRow, TenantRow)


class TenantExists(PermanentError):
    """Another tenant has this name; choose another one."""

    code = "tenant_exists"


class KeyEnded(PermanentError):
    """The key is revoked, expired or rotated, so it cannot be rotated; rotate its successor, or create a key."""

    code = "key_ended"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created."""

    row: KeyRow
    text: str
    """The key itself. It is stored nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundKey:
    """What an API process needs of a key."""

    id: UUID
    tenant_id: UUID
    prefix: str
    secret_hash: bytes
    scopes: frozenset[Scope]
    is_revoked: bool
    expires_in_s: float | None
    """Seconds until it expires, negative if it has; `None` for a key that does not."""
    is_use_recorded: bool
    """Whether a use of the last minute is recorded."""
    requests_per_minute: int | None
    """Limit of its tenant; `None` is the deployment's default."""


def prefix_of(text: str) -> str | None:
    """Return the prefix of a key's text; `None` if the text is not one of a key."""
    found = _KEY.fullmatch(text)
    return found and found[1]


def hash_of(text: str) -> bytes:
    """Return what is stored of a key's text.

    The secret is 32 random bytes, so nobody finds it by trying, and a slow hash would protect nothing.
    """
    return hashlib.sha256(text.encode()).digest()


def create_key(
    session: Session,
    tenant_id: UUID,
    *,
    name: str,
    scopes: Collection[Scope],
    expires_in_s: float | None = None,
    replaces: UUID | None = None,
) -> NewKey:
    """Create a key of a tenant that exists."""
    prefix = secrets.token_hex(_PREFIX_BYTES)
    text = f"trim_{prefix}_{secrets.token_hex(_SECRET_BYTES)}"
    values: dict[str, Any] = {
        "id": uuid7(),
        "tenant_id": tenant_id,
        "name": name,
        "prefix": prefix,
        "secret_hash": hash_of(text),
        "scopes": [each.value for each in Scope if each in scopes],
        "expires_at": None if expires_in_s is None else func.now() + timedelta(seconds=expires_in_s),
        "replaces": replaces,
    }
    row = session.scalars(insert(KeyRow).values(values).returning(KeyRow)).one()
    return NewKey(row, text)


def rotate_key(session: Session, tenant_id: UUID, key_id: UUID, *, overlap_s: float) -> NewKey | None:
    """Create a key in place of another one, with its name, scopes and lifetime.

    Args:
        session: The session.
        tenant_id: The tenant.
        key_id: The key to replace.
        overlap_s: Seconds for which the old key remains valid, unless it expires before.

    Returns:
        The new key; `None` if the tenant has no such key.

    Raises:
        KeyEnded: The old key is not valid, or was rotated before.
    """
    old = session.execute(
        select(KeyRow, (KeyRow.expires_at <= func.now()).label("is_expired"))
        .where(KeyRow.tenant_id == tenant_id, KeyRow.id == key_id)
        .with_for_update()
    ).first()
    if old is None:
        return None
    row: KeyRow = old[0]
    is_rotated = session.scalar(select(exists().where(KeyRow.tenant_id == tenant_id, KeyRow.replaces == key_id)))
    if row.revoked_at is not None or old.is_expired or is_rotated:
        raise KeyEnded
    lifetime = None if row.expires_at is None else (row.expires_at - row.created_at).total_seconds()
    made = create_key(
        session, tenant_id, name=row.name, scopes={Scope(each) for each in row.scopes}, expires_in_s=lifetime,
        replaces=row.id,
    )  # fmt: skip
    # `least` ignores null, so a key without an expiry gets one.
    ends_at = func.least(KeyRow.expires_at, func.now() + timedelta(seconds=overlap_s))
    session.execute(update(KeyRow).where(KeyRow.id == row.id).values(expires_at=ends_at))
    return made


def revoke_key(session: Session, tenant_id: UUID, key_id: UUID) -> KeyRow | None:
    """Revoke a key; one that is revoked stays as it is. Returns `None` if the tenant has no such key."""
    changed = (
        update(KeyRow)
        .where(KeyRow.tenant_id == tenant_id, KeyRow.id == key_id)
        .values(revoked_at=func.coalesce(KeyRow.revoked_at, func.now()))
    )
    return session.scalars(changed.returning(KeyRow)).one_or_none()


def list_keys(session: Session, tenant_id: UUID, *, limit: int, cursor: str | None) -> Page[KeyRow]:
    """List the keys of a tenant, newest first.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    return _list_newest(session, KeyRow, KeyRow.tenant_id == tenant_id, limit=limit, cursor=cursor)


def find_keys(session: Session, prefixes: Collection[str]) -> list[FoundKey]:
    """Find keys by their prefixes, valid or not. The caller compares the hashes."""
    return [
        FoundKey(**{**each, "scopes": frozenset(map(Scope, each["scopes"]))})
        for each in session.execute(_FIND_KEYS, {"prefixes": list(prefixes)}).mappings()
    ]


def record_use(connection: Connection, key_ids: Collection[UUID]) -> None:
    """Record that keys were used just now, unless a use of the last minute is recorded. Skips rows that are locked."""
    connection.execute(_RECORD_USE, {"ids": list(key_ids)})


def create_tenant(session: Session, name: str, limits: Mapping[str, int | None]) -> TenantRow:
    """Create a tenant.

    Raises:
        TenantExists: Another one has this name.
    """
    with _naming():
        return session.scalars(insert(TenantRow).values(id=uuid7(), name=name, **limits).returning(TenantRow)).one()


def change_tenant(session: Session, tenant_id: UUID, changes: Mapping[str, Any]) -> TenantRow | None:
    """Change the name and the limits of a tenant; `None` if there is none of this id.

    Raises:
        TenantExists: Another one has this name.
    """
    row = session.scalar(select(TenantRow).where(TenantRow.id == tenant_id).with_for_update())
    if row is not None:
        for name, value in changes.items():
            setattr(row, name, value)
        with _naming():
            session.flush()
    return row


def read_tenant(session: Session, tenant_id: UUID) -> TenantRow | None:
    """Read a tenant."""
    return session.get(TenantRow, tenant_id)


def find_tenant(session: Session, name_or_id: str) -> TenantRow | None:
    """Find a tenant by its name, or else by its id."""
    if (found := session.scalar(select(TenantRow).where(TenantRow.name == name_or_id))) is not None:
        return found
    try:
        return read_tenant(session, UUID(name_or_id))
    except ValueError:
        return None


def list_tenants(session: Session, *, limit: int, cursor: str | None) -> Page[TenantRow]:
    """List all tenants, newest first.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    return _list_newest(session, TenantRow, limit=limit, cursor=cursor)


@contextmanager
def _naming() -> Iterator[None]:
    """Turn the violation of the names' uniqueness within the block into a typed error."""
    try:
        yield
    except IntegrityError as error:
        raise TenantExists from error


def _list_newest(
    session: Session, kind: type[Listed], *conditions: ColumnElement[bool], limit: int, cursor: str | None
) -> Page[Listed]:
    listing = kind.__tablename__
    query = select(kind).where(*conditions).order_by(kind.id.desc()).limit(limit + 1)
    if cursor is not None:
        (written,) = read_cursor(listing, cursor, str)
        try:
            query = query.where(kind.id < UUID(written))
        except ValueError as error:
            raise BadCursor from error
    rows: Sequence[Listed] = session.scalars(query).all()
    items = rows[:limit]
    return Page(items, make_cursor(listing, str(items[-1].id)) if len(rows) > limit else None)


_IS_USE_RECORDED: ColumnElement[bool] = func.coalesce(KeyRow.last_used_at > func.now() - USE_RECORDED_EVERY, false())
_FIND_KEYS: Select[*tuple[Any, ...]] = (
    select(
        KeyRow.id,
        KeyRow.tenant_id,
        KeyRow.prefix,
        KeyRow.secret_hash,
        KeyRow.scopes,
        KeyRow.revoked_at.is_not(None).label("is_revoked"),
        cast(extract("epoch", KeyRow.expires_at - func.now()), Double()).label("expires_in_s"),
        _IS_USE_RECORDED.label("is_use_recorded"),
        TenantRow.requests_per_minute,
    )
    .join(TenantRow, TenantRow.id == KeyRow.tenant_id)
    .where(KeyRow.prefix == any_(bindparam("prefixes", type_=ARRAY(Text()))))
)
_USED = (
    select(KeyRow.id)
    .where(KeyRow.id == any_(bindparam("ids", type_=ARRAY(Uuid()))), ~_IS_USE_RECORDED)
    .order_by(KeyRow.id)
    .with_for_update(skip_locked=True, key_share=True)
    .cte("used")
)
_RECORD_USE = update(KeyRow).where(KeyRow.id == _USED.c.id).values(last_used_at=func.now())
