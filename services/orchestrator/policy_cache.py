"""The policies that decide: built from the submitter's choice and, for fitted ones, an artefact; cached.

Artefacts are read and built between transactions: while that takes its time, no problem is locked. A transaction that
needs some which are not here yet raises `NotLoaded`, and is repeated once they are loaded. It waits for all policies
that decide, and for a few shadows.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, TypeVar

from shared.domain.artefacts import EncodedArtefact
from shared.domain.options import PolicyChoice, Wrappers
from shared.errors import PermanentError
from shared.log import get_logger
from shared.policies.artefact import Artefact, BadArtefact
from shared.policies.policy import FittedPolicy
from shared.policies.registry import BadParameters, build_routing
from shared.policies.wrapping import Routing
from shared.store.port import Store

SIZE: Final = 1024
"""Maximum number of policies, and of fitted ones, that are kept."""

SHADOW_LOADS: Final = 4
"""Maximum number of shadows that one transaction waits for: as many as a problem may have."""

T = TypeVar("T")

_log = get_logger(__name__)

_Key = tuple[str, str, Wrappers, int | None]
"""Name, parameters as JSON, wrappers and version of a policy."""


class NotLoaded(Exception):
    """A transaction needs policies that are not loaded yet."""

    def __init__(self, choices: Sequence[PolicyChoice]) -> None:
        super().__init__(", ".join(choice.name for choice in choices))
        self.choices = choices


class TooManyLoads(Exception):
    """A transaction waits for other shadows already; a later one may load this shadow."""


class PolicyCache:
    """Keeps the fitted policies of one store that were loaded last. Threads may share it."""

    def __init__(self, store: Store, *, shadow_time_s: float = math.inf) -> None:
        """Create an empty cache.

        Args:
            store: The store that has the artefacts.
            shadow_time_s: Seconds of processor time that the shadows of one decision may take.
        """
        self.shadow_time_s = shadow_time_s
        self._store = store
        self._fitted: dict[_Key, Routing] = {}
        self._changing = threading.Lock()
        self._thread = _Held()

    def routing_of(self, choice: PolicyChoice, *, is_shadow: bool = False) -> Routing:
        """Return what a problem's submitter chose, as this version of the code decides. Reads nothing.

        Raises:
            NotLoaded: It has to be loaded first; `loading` does that and repeats the transaction.
            TooManyLoads: It is a shadow, and the transaction waits for `SHADOW_LOADS` others.
            UnknownPolicy: This version has no policy of this name.
            BadParameters: This version's policy refuses the parameters.
            BadArtefact: The policy's artefact is missing, damaged or another policy's.
        """
        key = _key(choice)
        routing = _build(*key[:3])
        if not isinstance(routing.policy, FittedPolicy):
            return routing
        if choice.version is None:
            raise BadParameters(f"The policy {choice.name!r} decides with an artefact, and none was chosen.")
        found = self._thread.loaded.get(key) or self._fitted.get(key)
        if isinstance(found, PermanentError):
            raise found
        if found is not None:
            return found
        if is_shadow:
            self._thread.want_shadow(key)
        raise NotLoaded([choice])

    def loading(self, work: Callable[[], T]) -> T:
        """Run a transaction, and repeat it after loading the policies that it needs.

        What it needs is loaded once and held until it is done, even if that is more than the cache keeps. What is wrong
        with an artefact is held as long: a later transaction may find it mended.

        Raises:
            RetryableError: The store is unavailable.
        """
        try:
            while True:
                try:
                    return work()
                except NotLoaded as missing:
                    for choice in missing.choices:
                        self._load(choice)
        finally:
            self._thread.clear()

    def _load(self, choice: PolicyChoice) -> None:
        key = _key(choice)
        if key in self._thread.loaded:
            return
        try:
            fitted = _fit(choice, self._read(choice))
        except PermanentError as error:
            self._thread.loaded[key] = error
            return
        self._thread.loaded[key] = fitted
        with self._changing:
            self._fitted[key] = fitted
            while len(self._fitted) > SIZE:
                del self._fitted[next(iter(self._fitted))]

    def _read(self, choice: PolicyChoice) -> EncodedArtefact:
        assert choice.version is not None, "a policy without a version is never loaded"
        encoded = self._store.read_artefact(choice.name, choice.version)
        if encoded is None:
            raise BadArtefact(f"The policy {choice.name!r} has no version {choice.version}.")
        return encoded


def _fit(choice: PolicyChoice, encoded: EncodedArtefact) -> Routing:
    routing = _build(*_key(choice)[:3])
    assert isinstance(routing.policy, FittedPolicy), "a policy without an artefact is never loaded"
    try:
        fitted = routing.policy.fitted(Artefact.read(encoded.card, encoded.arrays))
    except PermanentError:
        raise
    except Exception as error:
        # It would fail again. It may be a shadow, and must not stop the problem that it shadows.
        _log.exception("policy_unloadable", policy=choice.name, version=choice.version)
        raise BadArtefact(f"The policy {choice.name!r} cannot be loaded ({type(error).__name__}).") from error
    return Routing(fitted, routing.wrappers, choice.version)


class _Held(threading.local):
    """What a thread has loaded, or could not, for the transaction at hand."""

    def __init__(self) -> None:
        self.loaded: dict[_Key, Routing | PermanentError] = {}
        self.shadows: set[_Key] = set()
        """Shadows that it waits for, or has waited for."""

    def want_shadow(self, key: _Key) -> None:
        """Count a shadow that has to be loaded.

        Raises:
            TooManyLoads: `SHADOW_LOADS` others are counted.
        """
        if key not in self.shadows and len(self.shadows) >= SHADOW_LOADS:
            raise TooManyLoads
        self.shadows.add(key)

    def clear(self) -> None:
        """Forget all of it."""
        self.loaded.clear()
        self.shadows.clear()


def _key(choice: PolicyChoice) -> _Key:
    return choice.name, json.dumps(dict(choice.parameters), sort_keys=True), choice.wrappers, choice.version


@lru_cache(maxsize=SIZE)
def _build(name: str, parameters: str, wrappers: Wrappers) -> Routing:
    return build_routing(name, json.loads(parameters), wrappers)
