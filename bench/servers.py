"""The servers of the benchmarks: those of the settings, or the standard ports on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import sqlalchemy.exc
from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError

from shared.bus.connection import BrokerUnavailable, connect, is_pgmq
from shared.errors import PermanentError
from shared.settings import Settings
from shared.store.database import Database, DatabaseUnavailable

DATABASE_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
BROKER_URL = "amqp://guest:guest@127.0.0.1:5672//"


class RabbitmqNeeded(PermanentError):
    """The benchmarks need RabbitMQ; set TRIM_BROKER_URL to amqp://user:password@host:port/vhost."""

    code = "rabbitmq_needed"


@contextmanager
def servers(settings: Settings) -> Iterator[tuple[str, str]]:
    """Check both servers and yield their URLs: a database server on which databases can be created, and RabbitMQ.

    Raises:
        DatabaseUnavailable: The database does not respond, or became unreachable during the block.
        BrokerUnavailable: RabbitMQ does not respond, or became unreachable during the block.
        RabbitmqNeeded: The settings name another broker.
    """
    database_url = settings.database_url.get_secret_value() if settings.database_url else DATABASE_URL
    broker_url = settings.broker_url.get_secret_value() if settings.broker_url else BROKER_URL
    try:
        with closing(Database(database_url)) as database, database.begin():
            pass
        named = Settings.model_validate({"broker_url": broker_url})
        if is_pgmq(named):
            raise RabbitmqNeeded
        connect(named).release()
        yield database_url, broker_url
    except (psycopg.OperationalError, sqlalchemy.exc.OperationalError) as error:
        raise DatabaseUnavailable from error
    except (AMQPError, KombuError, ConnectionError) as error:
        raise BrokerUnavailable from error
