"""Counts the messages that the service could not use."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from amqp.exceptions import ChannelError
from kombu.connection import Connection

from shared.bus.connection import BrokerUnavailable, broker_errors, close, connect
from shared.bus.topology import QUEUES, QueueRole, Topology
from shared.settings import Settings

NOT_FOUND = 404
"""AMQP's reply code for a queue that does not exist."""


def count_dead_letters(settings: Settings) -> Mapping[str, int]:
    """Count the messages in each dead-letter queue, by its name; a queue that was never declared holds none.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    topology = Topology(settings.queue_prefix)
    connection = connect(settings)
    try:
        return {topology.dead_letters(role).name: _count(connection, topology, role) for role in QUEUES}
    except broker_errors(connection) as error:
        raise BrokerUnavailable from error
    finally:
        close(connection)


def _count(connection: Connection, topology: Topology, role: QueueRole) -> int:
    with closing(connection.channel()) as channel:
        try:
            return int(topology.dead_letters(role)(channel).queue_declare(passive=True).message_count)
        except ChannelError as error:
            if int(error.reply_code) != NOT_FOUND:
                raise
            return 0
