"""The state of the broker and its queues, as a client may see it. Reading it declares nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from amqp import Message
from amqp.exceptions import ChannelError, NotFound
from kombu.connection import Connection

from shared.bus.connection import (
    answering,
    broker_errors,
    close,
    connect,
    is_pgmq,
    pgmq_conninfo,
    pgmq_server,
    unavailable,
)
from shared.bus.topology import QUEUES, QueueRole, Topology
from shared.settings import Settings

_CONFIRM_TIMEOUT_S: Final = 2.0
"""Seconds in which a broker without an alarm confirms a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """State of one queue of the service and of its dead letters."""

    role: QueueRole
    name: str
    exists: bool = True
    ready: int = 0
    """Number of messages that wait."""
    unacknowledged: int | None = None
    """Number of messages that a process holds; `None` where the broker shows that to its administrators alone."""
    consumers: int | None = None
    """Number of subscriptions; `None` if the broker does not know them."""
    dead: int = 0
    """Number of dead letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerState:
    """State of a broker that answers."""

    product: str
    version: str
    takes_messages: bool | None
    """Whether it takes messages at present, as it does not under an alarm; `None` if the user may not publish."""
    queues: Sequence[QueueState]


def read_broker(settings: Settings) -> BrokerState:
    """Read the state of the broker and its queues.

    Raises:
        BrokerUnavailable: The broker does not answer, or the connection broke.
    """
    topology = Topology(settings.queue_prefix)
    if is_pgmq(settings):
        names = [each(role).name for role in QUEUES for each in (topology.queue, topology.dead_letters)]
        version, counts = pgmq_server().read_queues(pgmq_conninfo(settings), names)
        queues = [_pgmq_state(topology, role, counts) for role in QUEUES]
        return BrokerState(product="pgmq on PostgreSQL", version=version, takes_messages=True, queues=queues)
    connection = connect(settings)
    try:
        with answering(connection):
            queues = [_amqp_state(connection, topology, role) for role in QUEUES]
            about = connection.connection.server_properties
            takes_messages = _takes_messages(connection, topology) if all(each.exists for each in queues) else None
    except broker_errors(connection) as error:
        raise unavailable(error) from error
    finally:
        close(connection)
    product, version = str(about.get("product", "A broker with AMQP")), str(about.get("version", ""))
    return BrokerState(product=product, version=version, takes_messages=takes_messages, queues=queues)


def _amqp_state(connection: Connection, topology: Topology, role: QueueRole) -> QueueState:
    name = topology.queue(role).name
    counts, dead = _declared(connection, topology.queue(role)), _declared(connection, topology.dead_letters(role))
    return QueueState(
        role=role,
        name=name,
        exists=counts is not None,
        ready=counts.message_count if counts else 0,
        consumers=counts.consumer_count if counts else None,
        dead=dead.message_count if dead else 0,
    )


def _declared(connection: Connection, queue: Any) -> Any:
    """Return the counts of a queue; `None` if it does not exist. A passive declaration needs no permission."""
    with closing(connection.channel()) as channel:
        try:
            return queue(channel).queue_declare(passive=True)
        except NotFound:
            return None


def _takes_messages(connection: Connection, topology: Topology) -> bool | None:
    """Publish a message that no queue gets: under an alarm the broker reads nothing more from this connection."""
    with closing(connection.channel()) as channel:
        try:
            exchange = topology.queue("events").exchange.name
            channel.basic_publish_confirm(Message(b""), exchange, "nowhere", confirm_timeout=_CONFIRM_TIMEOUT_S)
        except ChannelError:
            return None
        except TimeoutError:
            return False
    return True


def _pgmq_state(topology: Topology, role: QueueRole, counts: Any) -> QueueState:
    name = topology.queue(role).name
    found = counts.get(name)
    dead, held = counts.get(topology.dead_letters(role).name, (0, 0))
    return QueueState(
        role=role,
        name=name,
        exists=found is not None,
        ready=found[0] if found else 0,
        unacknowledged=found[1] if found else None,
        dead=dead + held,
    )
