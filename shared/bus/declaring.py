"""Declaring the queues and exchanges of a deployment, also as a user who may not create them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from shared.bus.topology import Topology
from shared.errors import PermanentError, RetryableError


class QueuesMissing(RetryableError):
    """The broker lacks queues, and this process may not create them; start an orchestrator, which does."""

    code = "queues_missing"


class QueueDiffers(PermanentError):
    """The broker has a queue or exchange with other arguments; delete it, or choose another TRIM_QUEUE_PREFIX."""

    code = "queue_differs"


class Declarer:
    """Declares a deployment's queues and exchanges, on any connection of one user."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._is_refused = False
        """Whether the user may not declare. The broker logs each refusal as an error, so we then look before we try."""

    def declare(self, connection: Connection) -> None:
        """Declare everything, so that every published message finds its queue.

        Where the user may not, check that everything exists: a passive declaration needs no permission.

        Raises:
            QueuesMissing: A queue or exchange does not exist, and the user may not create it.
            QueueDiffers: One exists with other arguments.
        """
        if self._is_refused and not self._missing(connection):
            return
        try:
            with _channel(connection) as channel:
                self._topology.declare(channel)
            self._is_refused = False
        except PreconditionFailed as error:
            raise QueueDiffers from error
        except AccessRefused:
            self._is_refused = True
            if missing := self._missing(connection):
                raise QueuesMissing(
                    f"The broker has no {', no '.join(missing)}, and {connection.userid} may not create them; start an"
                    " orchestrator, whose user may, or grant this user the permission to configure them."
                ) from None

    def _missing(self, connection: Connection) -> list[str]:
        """Name the queues and exchanges that the broker does not have."""
        missing = [each for each in self._topology.entities if not _exists(connection, each)]
        return [f"{'queue' if isinstance(each, Queue) else 'exchange'} {each.name}" for each in missing]


def _exists(connection: Connection, entity: Exchange | Queue) -> bool:
    try:
        with _channel(connection) as channel:
            if isinstance(entity, Queue):
                entity(channel).queue_declare(passive=True)
            else:
                entity(channel).declare(passive=True)
    except NotFound:
        return False
    return True


@contextmanager
def _channel(connection: Connection) -> Iterator[Any]:
    """Open a channel for the block: a refusal closes its channel, and must not close one that others use.

    pgmq refuses nothing, and each of its channels opens connections to Postgres, so there we use the one that exists.
    """
    if connection.transport.driver_type != "amqp":
        yield connection.default_channel
        return
    channel = connection.channel()
    try:
        yield channel
    finally:
        connection.maybe_close_channel(channel)
