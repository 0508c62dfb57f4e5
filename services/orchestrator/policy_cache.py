"""The policies that decide: built from the submitter's choice and, for fitted ones, an artefact; cached.

Artefacts are read and built between transactions: while that takes its time, no problem is locked. A transaction that
needs one which is not here yet raises `NotLoaded`, and is repeated once it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, TypeVar

from shared.domain.options import PolicyChoice
from shared.errors import PermanentError
from shared.policies.artefact import Artefact, BadArtefact
from shared.policies.policy import FittedPolicy
from shared.policies.registry import BadParameters, build_routing
from shared.policies.wrapping import Routing
from shared.store.port import Store

SIZE: Final = 1024
"""Maximum number of policies that are kept."""

T = TypeVar("T")


class NotLoaded(Exception):
    """A transaction needs a policy that is not loaded yet."""

    def __init__(self, choice: PolicyChoice) -> None:
        super().__init__(choice.name)
        self.choice = choice


class PolicyCache:
    """Keeps the policies of one store that were built last. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Routing | PermanentError] = {}

    def routing_of(self, choice: PolicyChoice) -> Routing:
        """Return what a problem's submitter chose, as this version of the code decides. Reads nothing.

        Raises:
            NotLoaded: Call `load` first, outside of any transaction.
            UnknownPolicy: This version has no policy of this name.
            BadParameters: This version's policy refuses the parameters.
            BadArtefact: The policy's artefact is missing, damaged or another policy's.
        """
        key = _key(choice)
        known = self._known.get(key)
        if known is None:
            raise NotLoaded(choice)
        if isinstance(known, PermanentError):
            # Forgotten, so that a later problem finds an artefact that was registered meanwhile.
            self._known.pop(key, None)
            raise known
        return known

    def load(self, choice: PolicyChoice) -> None:
        """Build a policy, so that `routing_of` returns it or raises what is wrong with it.

        Raises:
            RetryableError: The store is unavailable.
        """
        made: Routing | PermanentError
        try:
            made = self._build(choice)
        except PermanentError as error:
            made = error
        self._known[_key(choice)] = made
        while len(self._known) > SIZE:
            self._known.pop(next(iter(self._known)), None)

    def loading(self, work: Callable[[], T]) -> T:
        """Run a transaction, and repeat it after loading each policy that it needs."""
        while True:
            try:
                return work()
            except NotLoaded as missing:
                self.load(missing.choice)

    def _build(self, choice: PolicyChoice) -> Routing:
        routing = build_routing(choice.name, choice.parameters, choice.wrappers)
        if not isinstance(routing.policy, FittedPolicy):
            return routing
        if choice.version is None:
            raise BadParameters(f"The policy {choice.name!r} decides with an artefact, and none was chosen.")
        encoded = self._store.read_artefact(choice.name, choice.version)
        if encoded is None:
            raise BadArtefact(f"The policy {choice.name!r} has no version {choice.version}.")
        artefact = Artefact.read(encoded.card, encoded.arrays)
        return Routing(routing.policy.fitted(artefact), routing.wrappers, choice.version)


def _key(choice: PolicyChoice) -> str:
    return json.dumps([choice.name, choice.version, dict(choice.parameters), repr(choice.wrappers)], sort_keys=True)
