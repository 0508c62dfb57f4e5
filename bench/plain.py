"""The plain design that the service is compared with: one Celery task per hop, one transaction per event.

`bench.overhead` runs its workers: `python -m bench.plain small | prm | decide`.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import count as counting
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from celery.worker.consumer import Consumer
from kombu.entity import Exchange, Queue
from psycopg_pool import ConnectionPool
from pydantic import SecretStr

from bench.design import STEPS, Design
from bench.tap import Binding
from shared import process
from shared.bus.connection import connect
from shared.settings import Settings
from stack.roles import Roles
from stack.scratch import scratch_database, scratch_prefix

HOPS = ("small", "prm", "decide")
"""The tasks; each has a queue and a worker process."""

TABLES = """
CREATE TABLE plain_problems (id int PRIMARY KEY, steps int NOT NULL DEFAULT 0,
    started_at timestamptz, finished_at timestamptz);
CREATE TABLE plain_steps (problem int REFERENCES plain_problems, step int, text text, score double precision,
    PRIMARY KEY (problem, step));
CREATE TABLE plain_decisions (problem int REFERENCES plain_problems, step int, action text, reason text,
    PRIMARY KEY (problem, step));
CREATE TABLE plain_inbox (id text PRIMARY KEY);
"""


class PlainConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer without delayed delivery, which is unused and would leave 28 queues on the broker."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Parts of the consumer."""

        default_steps = tuple(
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        )

    def start(self) -> None:
        """Consume. SIGTERM now ends the process immediately; an idle Celery worker needs ten seconds to notice it."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        super().start()


class Plain(Design):
    """The plain design. It has no lookahead."""

    problem_table = "plain_problems"
    step_table = "plain_steps"

    def __init__(self, settings: Settings, roles: Roles) -> None:
        """Connect to a plain design whose workers run."""
        super().__init__(settings, roles)
        self._app = make_app(settings)
        self._numbers = counting()

    def submit(self, count: int, *, lookahead: int) -> None:
        """Submit new problems: commit their rows, then send the first task of each."""
        assert lookahead == 0
        ids = [next(self._numbers) for _ in range(count)]
        with self.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO plain_problems (id) SELECT unnest(%s::int[])", (ids,))
        for each in ids:
            send(self._app, "small", each, [])

    def bindings(self) -> Sequence[Binding]:
        """List everything that the plain design publishes: its tasks."""
        return [(queue.exchange.name, queue.routing_key) for queue in self._app.conf.task_queues]

    def close(self) -> None:
        """Close the benchmark's connections."""
        self._app.close()
        super().close()


@contextmanager
def running_plain(server_url: str, broker_url: str) -> Iterator[Plain]:
    """Run the plain design for the duration of the block.

    Args:
        server_url: Database of a server on which others can be created.
        broker_url: URL of RabbitMQ.
    """
    with tempfile.TemporaryDirectory() as folder, scratch_database(server_url) as database_url:
        settings = Settings(
            database_url=SecretStr(database_url), broker_url=SecretStr(broker_url), queue_prefix=scratch_prefix()
        )
        environment = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker_url,
            "TRIM_QUEUE_PREFIX": settings.queue_prefix,
            "TRIM_LOG_LEVEL": "warning",
        }
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(TABLES.encode())
        with (
            scratch_hops(settings),
            Roles(environment, Path(folder), roles={hop: ["-m", "bench.plain", hop] for hop in HOPS}) as running,
            closing(Plain(settings, running)) as plain,
        ):
            yield plain


@contextmanager
def scratch_hops(settings: Settings) -> Iterator[None]:
    """Delete the queues and the exchange at the end, with their messages."""
    try:
        yield
    finally:
        connection = connect(settings)
        queues = make_app(settings).conf.task_queues
        for declared in (*queues, queues[0].exchange):
            declared(connection.default_channel).delete()
        connection.release()


def make_app(settings: Settings) -> Celery:
    """Make the Celery app: three queues, late acknowledgement, confirmed publication."""
    exchange = Exchange(f"{settings.queue_prefix}.plain", type="topic")
    names = [f"{exchange.name}.{hop}" for hop in HOPS]
    queues = [Queue(name, exchange, name, queue_arguments={"x-queue-type": "quorum"}) for name in names]
    app = Celery("plain", set_as_current=False)
    app.conf.update(
        broker_url=settings.require_broker_url(),
        broker_transport_options={"confirm_publish": True},
        broker_connection_retry_on_startup=True,
        task_queues=queues,
        task_default_queue=queues[0].name,
        task_default_exchange=exchange.name,
        task_default_exchange_type="topic",
        task_acks_late=True,
        task_ignore_result=True,
        worker_consumer="bench.plain:PlainConsumer",
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
    )
    return app


def send(app: Celery, hop: str, *arguments: Any) -> None:
    """Send one task."""
    queue = app.conf.task_queues[HOPS.index(hop)].name
    app.send_task(hop, args=arguments, queue=queue, routing_key=queue)


def define_tasks(app: Celery, pool: ConnectionPool[Any] | None) -> None:
    """Define the three tasks."""

    @app.task(name="small")  # type: ignore[untyped-decorator]
    def small(problem: int, prefix_texts: list[str]) -> None:
        send(app, "prm", problem, prefix_texts, f"step {len(prefix_texts)} is written")

    @app.task(name="prm")  # type: ignore[untyped-decorator]
    def prm(problem: int, prefix_texts: list[str], draft: str) -> None:
        send(app, "decide", problem, prefix_texts, draft, 0.9)

    @app.task(name="decide")  # type: ignore[untyped-decorator]
    def decide(problem: int, prefix_texts: list[str], draft: str, score: float) -> None:
        assert pool is not None
        step = len(prefix_texts)
        with pool.connection() as connection:
            done = _decide(connection, problem, step, draft, score)
        if not done:
            send(app, "small", problem, [*prefix_texts, draft])


def _decide(connection: psycopg.Connection[Any], problem: int, step: int, draft: str, score: float) -> bool:
    connection.execute("INSERT INTO plain_inbox VALUES (%s)", [f"{problem}/{step}"])
    connection.execute("SELECT steps FROM plain_problems WHERE id = %s FOR UPDATE", [problem]).fetchone()
    connection.execute("INSERT INTO plain_steps VALUES (%s, %s, %s, %s)", [problem, step, draft, score])
    connection.execute("INSERT INTO plain_decisions VALUES (%s, %s, 'accept', 'score')", [problem, step])
    connection.execute(
        "UPDATE plain_problems SET steps = steps + 1, started_at = coalesce(started_at, now()), "
        "finished_at = CASE WHEN %s THEN clock_timestamp() END WHERE id = %s",
        [step + 1 == STEPS, problem],
    )
    return step + 1 == STEPS


def work(settings: Settings, *, hop: str) -> None:
    """Run one worker."""
    app = make_app(settings)
    pool = None
    if hop == "decide":
        pool = ConnectionPool(settings.require_database_url(), min_size=8, max_size=8, open=True)
    define_tasks(app, pool)
    concurrency = "8" if hop == "decide" else "32"
    queue = app.conf.task_queues[HOPS.index(hop)].name
    app.worker_main(
        [
            "worker", "--pool=threads", f"--concurrency={concurrency}", f"--queues={queue}",
            "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR", f"-n{queue}@%h",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    process.run(partial(work, hop=sys.argv[1]), role=sys.argv[1])
