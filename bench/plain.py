"""The plain design that the service is measured against: one Celery task a hop, one transaction an event.

Run as a worker by `bench.overhead`: `python -m bench.plain small | prm | decide`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import psycopg
from celery import Celery
from kombu.entity import Exchange, Queue
from psycopg_pool import ConnectionPool

STEPS = 8

TABLES = """
CREATE TABLE plain_problems (id int PRIMARY KEY, steps int NOT NULL DEFAULT 0,
    started_at timestamptz, finished_at timestamptz);
CREATE TABLE plain_steps (problem int REFERENCES plain_problems, step int, text text, score double precision,
    PRIMARY KEY (problem, step));
CREATE TABLE plain_decisions (problem int REFERENCES plain_problems, step int, action text, reason text,
    PRIMARY KEY (problem, step));
CREATE TABLE plain_inbox (id text PRIMARY KEY);
"""


def make_app(prefix: str) -> Celery:
    """Make the Celery app: three queues, late acknowledgement, confirmed publication."""
    exchange = Exchange(f"{prefix}.plain", type="topic")
    queues = [
        Queue(f"{prefix}.plain.{name}", exchange, f"{prefix}.plain.{name}", queue_arguments={"x-queue-type": "quorum"})
        for name in ("small", "prm", "decide")
    ]
    app = Celery("plain", set_as_current=False)
    app.conf.update(
        broker_url=os.environ["TRIM_BROKER_URL"],
        broker_transport_options={"confirm_publish": True},
        broker_connection_retry_on_startup=True,
        task_queues=queues,
        task_default_queue=queues[0].name,
        task_default_exchange=exchange.name,
        task_default_exchange_type="topic",
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
    )
    return app


def send(app: Celery, prefix: str, name: str, *arguments: Any) -> None:
    """Send one hop."""
    queue = f"{prefix}.plain.{name}"
    app.send_task(name, args=arguments, queue=queue, routing_key=queue)


def define_tasks(app: Celery, prefix: str, pool: ConnectionPool[Any] | None) -> None:
    """Define the three hops."""

    @app.task(name="small")  # type: ignore[untyped-decorator]
    def small(problem: int, prefix_texts: list[str]) -> None:
        send(app, prefix, "prm", problem, prefix_texts, f"step {len(prefix_texts)} is written")

    @app.task(name="prm")  # type: ignore[untyped-decorator]
    def prm(problem: int, prefix_texts: list[str], draft: str) -> None:
        send(app, prefix, "decide", problem, prefix_texts, draft, 0.9)

    @app.task(name="decide")  # type: ignore[untyped-decorator]
    def decide(problem: int, prefix_texts: list[str], draft: str, score: float) -> None:
        assert pool is not None
        step = len(prefix_texts)
        with pool.connection() as connection:
            done = _decide(connection, problem, step, draft, score)
        if not done:
            send(app, prefix, "small", problem, [*prefix_texts, draft])


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


def main() -> None:
    """Run one worker."""
    role, prefix = sys.argv[1], os.environ["TRIM_QUEUE_PREFIX"]
    app = make_app(prefix)
    pool = None
    if role == "decide":
        pool = ConnectionPool(os.environ["TRIM_DATABASE_URL"], min_size=8, max_size=8, open=True)
    define_tasks(app, prefix, pool)
    concurrency = "8" if role == "decide" else "32"
    app.worker_main(
        [
            "worker", "--pool=threads", f"--concurrency={concurrency}", f"--queues={prefix}.plain.{role}",
            "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR", f"-n{role}-{prefix}@%h",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
