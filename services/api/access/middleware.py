"""Admits requests: checks their keys, counts them, and records who sends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.access.callers import ANYONE, Caller, set_caller
from services.api.access.errors import RateLimited, Unauthenticated
from services.api.access.keyring import Keyring
from services.api.access.rates import Rates
from services.api.lanes import KEY_RECORDS
from services.api.middleware import RESPONSE_HEADERS
from shared.errors import RetryableError, explain
from shared.log import get_logger
from shared.settings import Settings
from shared.store.access import record_use
from shared.store.database import Database
from shared.store.quotas import Counted, Totals, add_requests

OPEN_PATHS: Final = frozenset({"/health/live", "/openapi.json"})
"""Paths that need no key, and look at none."""

READINESS_PATH: Final = "/health/ready"
"""Path that needs no key, and shows more to a client that has one."""

RECORD_EVERY_S: Final = 1.0
"""Seconds between two exchanges of counted requests with the database."""

_BEGIN: Final = "trim_"
"""Begin of every key."""

_log = get_logger(__name__)


class Gate:
    """What decides on requests: settings, keys and counted requests."""

    def __init__(self, settings: Settings, database: Database) -> None:
        """Take the settings, and the database of the keys."""
        self.needs_key: Final = settings.api_keys == "required"
        self._requests_per_minute = settings.tenant_requests_per_minute
        self._database = database
        self._keyring = Keyring(database)
        self._rates = Rates()

    async def admit(self, scope: Scope) -> Caller | None:
        """Find out who sends a request, and count it.

        Raises:
            Unauthenticated, KeyExpired, KeyRevoked: The request has no valid key, but presents one or needs one.
            RateLimited: Its tenant has sent as many requests as it may.
            DatabaseUnavailable, DatabaseBusy: The key could not be looked up.
        """
        path = get_route_path(scope)
        if path in OPEN_PATHS:
            return None
        if path == READINESS_PATH:
            return await self._find_interested(scope)
        text = _presented(scope, needs_key=self.needs_key)
        if text is None:
            return ANYONE
        key = await self._keyring.check(text)
        limit = self._requests_per_minute if key.requests_per_minute is None else key.requests_per_minute
        if limit is not None:
            quota = self._rates.take(key.tenant_id, limit)
            scope[RESPONSE_HEADERS].update(quota.headers)
            if not quota.is_granted:
                raise RateLimited(limit, retry_after_s=quota.resets_in_s)
        return Caller(key.tenant_id, key.scopes, key.prefix)

    async def _find_interested(self, scope: Scope) -> Caller | None:
        """Find out who asks for readiness. A key that cannot be looked up counts as none: the database is down.

        Raises:
            Unauthenticated, KeyExpired, KeyRevoked: The request presents no valid key.
        """
        text = _presented(scope, needs_key=False)
        if text is None:
            return None if self.needs_key else ANYONE
        try:
            key = await self._keyring.check(text)
        except (RetryableError, SQLAlchemyError):
            return None
        return Caller(key.tenant_id, key.scopes, key.prefix)

    async def keep_records(self) -> None:
        """Record uses of keys, and exchange counted requests with other processes, until cancelled."""
        while True:
            await asyncio.sleep(RECORD_EVERY_S)
            used, counted = self._keyring.take_used(), self._rates.pending()
            if not used and not counted:
                continue
            sent_at_s = time.time()
            try:
                totals = await KEY_RECORDS.run(partial(self._record, used, counted))
                self._rates.learn(counted, totals, sent_at_s=sent_at_s)
            except RetryableError as error:
                _log.warning("requests_uncounted", code=error.code, detail=explain(error))
            except Exception:  # noqa: BLE001 - without this task, no limit would hold for all processes together
                _log.exception("requests_uncounted", code="internal")

    def _record(self, used: Collection[UUID], counted: Sequence[Counted]) -> Totals:
        with self._database.begin() as connection:
            if used:
                record_use(connection, used)
            return add_requests(connection, counted)


class Access:
    """Lets a gate decide on every request before its body is read."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        caller = await self._gate.admit(scope)
        set_caller(scope, caller)
        if caller is None or caller.prefix is None:
            await self._app(scope, receive, send)
            return
        with structlog.contextvars.bound_contextvars(caller=caller.prefix):
            await self._app(scope, receive, send)


def _presented(scope: Scope, *, needs_key: bool) -> str | None:
    """Return the key that a request presents; `None` if it presents none, and needs none.

    Where none is needed, other credentials are those of a proxy, or a placeholder: OpenAI's clients always send one.

    Raises:
        Unauthenticated: It presents none and needs one, or presents several.
    """
    values = Headers(scope=scope).getlist("authorization")
    if len(values) > 1:
        raise Unauthenticated("The header `Authorization` is given more than once; give it once.")
    scheme, _, text = (values[0] if values else "").partition(" ")
    text = text.strip()
    if needs_key:
        if scheme.lower() != "bearer":
            raise Unauthenticated
        return text
    return text if scheme.lower() == "bearer" and text.startswith(_BEGIN) else None
