"""The policies that decide: built from the submitter's choice and, for fitted ones, an artefact; cached.

Artefacts are read and built between transactions: while that takes its time, no problem is locked. A transaction that
needs one which is not here yet raises `NotLoaded`, and is repeated once it is loaded.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
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

T = TypeVar("T")

_log = get_logger(__name__)

_Key = tuple[str, str, Wrappers, int | None]
"""Name, parameters as JSON, wrappers and version of a policy."""


class NotLoaded(Exception):
    """A transaction needs a policy that is not loaded yet."""

    def __init__(self, choice: PolicyChoice) -> None:
        super().__init__(choice.name)
        self.choice = choice


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
        self._thread = _Errors()

    def routing_of(self, choice: PolicyChoice) -> Routing:
        """Return what a problem's submitter chose, as this version of the code decides. Reads nothing.

        Raises:
            NotLoaded: Call `load` first, outside of any transaction.
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
        if (error := self._thread.errors.get(key)) is not None:
            raise error
        if (fitted := self._fitted.get(key)) is None:
            raise NotLoaded(choice)
        return fitted

    def loading(self, work: Callable[[], T]) -> T:
        """Run a transaction, and repeat it after loading each policy that it needs.

        What is wrong with an artefact is remembered until the transaction is done: a later one may find it mended.
        """
        try:
            while True:
                try:
                    return work()
                except NotLoaded as missing:
                    self.load(missing.choice)
        finally:
            self._thread.errors.clear()

    def load(self, choice: PolicyChoice) -> None:
        """Load a policy, so that `routing_of` returns it or raises what is wrong with its artefact.

        Raises:
            RetryableError: The store is unavailable.
        """
        key = _key(choice)
        try:
            fitted = _fit(choice, self._read(choice))
        except PermanentError as error:
            self._thread.errors[key] = error
            return
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


class _Errors(threading.local):
    """What a thread could not load for the transaction at hand."""

    def __init__(self) -> None:
        self.errors: dict[_Key, PermanentError] = {}


def _key(choice: PolicyChoice) -> _Key:
    return choice.name, json.dumps(dict(choice.parameters), sort_keys=True), choice.wrappers, choice.version


@lru_cache(maxsize=SIZE)
def _build(name: str, parameters: str, wrappers: Wrappers) -> Routing:
    return build_routing(name, json.loads(parameters), wrappers)
