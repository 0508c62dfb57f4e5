"""Policies, and the health of the service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trim_client import calls
from trim_client.connection import Connection
from trim_client.models.health import Liveness, Readiness
from trim_client.models.policies import PolicyArtefact, PolicyDescription, PolicyVersion


class Policies:
    """Policies, and versions of those that are fitted to models."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Sequence[PolicyDescription]:
        """List the policies that a submission can name."""
        return self._connection.call(calls.policies())

    def default(self, name: str) -> PolicyVersion:
        """Read the version that a submission without a version gets: the default for the running models.

        Raises:
            NotFound: There is none.
        """
        return self._connection.call(calls.default_version(name))

    def version(self, name: str, number: int) -> PolicyVersion:
        """Read a version of a fitted policy."""
        return self._connection.call(calls.version(name, number))

    def versions(
        self, name: str, *, is_default: bool | None = None, limit: int | None = None
    ) -> Iterator[PolicyVersion]:
        """List the versions of a fitted policy, newest first; only those that are a default, or only others."""
        return self._connection.items(calls.versions(name, is_default=is_default), limit)

    def artefact(self, name: str, number: int) -> PolicyArtefact:
        """Read the artefact of a version, as another service can register it."""
        return self._connection.call(calls.artefact(name, number))

    def register(self, name: str, card: Mapping[str, Any], npz: bytes) -> PolicyVersion:
        """Register an artefact under the policy's next number; one that is known keeps its number."""
        return self._connection.call(calls.register_version(name, card, npz))

    def make_default(self, name: str, number: int) -> PolicyVersion:
        """Make a version the default for its models."""
        return self._connection.call(calls.make_default(name, number))

    def retire(self, name: str, number: int) -> PolicyVersion:
        """Withdraw a version from new submissions, permanently. Problems that have it keep it."""
        return self._connection.call(calls.retire(name, number))


class Health:
    """Health of the service."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def live(self) -> Liveness:
        """Confirm that the service answers."""
        return self._connection.call(calls.live())

    def ready(self) -> Readiness:
        """Read which parts of the service are up; also of one that refuses submissions."""
        return self._connection.call(calls.ready())
