"""The keys that a process knows: each for a few seconds, so that a request costs no statement."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

from services.api.access.errors import KeyExpired, KeyRevoked, Unauthenticated
from services.api.lanes import KEYS
from shared.store.access import FoundKey, find_keys, hash_of, prefix_of
from shared.store.database import Database

LIFE_S: Final = 5.0
"""Seconds for which a process relies on what it has read about a key: a revocation takes effect within them."""

MAX_KNOWN: Final = 10_000
"""Maximum number of keys that a process remembers, and of texts that are no keys."""

MAX_TOGETHER: Final = 500
"""Maximum number of keys that one statement looks up. Those that arrive during a statement share the next one, so
thousands of invented keys do not make a valid one wait."""


class _Known(NamedTuple):
    until: float
    """Moment on the monotonic clock from which it is looked up again."""
    key: FoundKey | None
    """`None` for a text that is no key."""


class Keyring:
    """Checks keys. Those that exist and invented ones are remembered apart, so these never push out those."""

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the database, and the clock."""
        self._database = database
        self._monotonic = monotonic
        self._lock = threading.Lock()
        """Guards changes. A process has one thread for lookups, but one for each event loop that tests run."""
        self._existing: dict[bytes, _Known] = {}
        self._invented: dict[bytes, _Known] = {}
        self._wanted: dict[bytes, str] = {}
        self._used: set[UUID] = set()

    async def check(self, text: str) -> FoundKey:
        """Find a valid key by its text.

        Raises:
            Unauthenticated: There is no such key: the same error whether its prefix exists or not.
            KeyExpired, KeyRevoked: There is; only a client that has the whole key learns that.
            DatabaseUnavailable, DatabaseBusy: The key could not be looked up.
        """
        if (prefix := prefix_of(text)) is None:
            raise Unauthenticated
        hashed = hash_of(text)
        known = self._known(hashed)
        if known is None:
            self._wanted[hashed] = prefix
            known = await KEYS.run(partial(self._look_up, hashed, prefix))
        if (key := known.key) is None:
            raise Unauthenticated
        if key.is_revoked:
            raise KeyRevoked
        if key.expires_in_s is not None and key.expires_in_s <= 0:
            raise KeyExpired
        return key

    def take_used(self) -> Collection[UUID]:
        """Return the keys whose use is to be recorded, and forget them."""
        with self._lock:
            used, self._used = self._used, set()
        return used

    def _known(self, hashed: bytes) -> _Known | None:
        known = self._existing.get(hashed) or self._invented.get(hashed)
        return known if known is not None and self._monotonic() < known.until else None

    def _look_up(self, hashed: bytes, prefix: str) -> _Known:
        """Look a key up, together with others that are waited for. Runs in a thread."""
        with self._lock:
            self._wanted.pop(hashed, None)
            if (known := self._known(hashed)) is not None:
                return known
            others = [*self._wanted.items()][: MAX_TOGETHER - 1]
            for each, _ in others:
                del self._wanted[each]
        wanted = {hashed: prefix, **dict(others)}
        began = self._monotonic()
        with self._database.session() as session:
            found = {each.prefix: each for each in find_keys(session, {*wanted.values()})}
        with self._lock:
            for each, its_prefix in wanted.items():
                key = found.get(its_prefix)
                if key is None or not hmac.compare_digest(key.secret_hash, each):
                    self._existing.pop(each, None)
                    _keep(self._invented, each, _Known(began + LIFE_S, None))
                    continue
                _keep(self._existing, each, _Known(began + _life_s(key), key))
                if not key.is_use_recorded:
                    self._used.add(key.id)
            return self._existing.get(hashed) or self._invented[hashed]


def _life_s(key: FoundKey) -> float:
    """Return for how long what was read about a key holds: a valid one not past its expiry."""
    if key.expires_in_s is None or key.expires_in_s <= 0:
        return LIFE_S
    return min(LIFE_S, key.expires_in_s)


def _keep(kept: dict[bytes, _Known], hashed: bytes, known: _Known) -> None:
    """Remember a key in place of the one that was looked up longest ago, if there are too many."""
    kept.pop(hashed, None)
    if len(kept) >= MAX_KNOWN:
        del kept[next(iter(kept))]
    kept[hashed] = known
