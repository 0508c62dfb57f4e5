"""The API process: an HTTP server around the app."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack, closing, suppress
from functools import partial

import uvicorn
from fastapi import FastAPI

from services.api.access.exposure import check_exposure
from services.api.app import create_app
from services.api.following import Following
from services.api.protocol import TimedProtocol
from shared.addresses import http_url, listen
from shared.errors import RefusedError, RetryableError, TrimError, explain
from shared.log import get_logger
from shared.observe.health import Health, LoopBeat
from shared.settings import Settings
from shared.store.database import Database
from shared.store.watching import watch_database

POOL_SIZE = 11
LOCK_TIMEOUT_S = 5.0
"""Seconds that a statement waits for a lock. What waits in order is a request with an idempotency key that another
request is just using."""

STOP_TIMEOUT_S = 15
LOOP_LIMIT_S = 60.0
"""Seconds without a round after which the event loop counts as stalled; it takes ten rounds a second."""

WATCH_LIMIT_S = 60.0
"""The same for the thread that watches the database, in addition to its pauses; its time-outs are shorter."""

_log = get_logger(__name__)


class Server(uvicorn.Server):
    """Logs its addresses once it listens, and ends waiting requests and streams when it stops."""

    def __init__(self, config: uvicorn.Config, following: Following, loop: LoopBeat, *, keys: str) -> None:
        super().__init__(config)
        self._following = following
        self._keys = keys
        self._loop = loop

    async def on_tick(self, counter: int) -> bool:
        """Record that the event loop makes progress."""
        self._loop.beat()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the addresses."""
        await super().startup(sockets)
        for each in sockets or ():
            _log.info("api_started", address=http_url(*each.getsockname()[:2]), keys=self._keys)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer clients that wait for a problem and end streams, then wait for all requests."""
        self._following.stop()
        await super().shutdown(sockets)


def _open_database(settings: Settings) -> Database:
    name = f"trim-api {settings.node_name}"
    url = settings.require_database_url()
    return Database(url, name=name, lock_timeout_s=LOCK_TIMEOUT_S, pool_size=POOL_SIZE)


def serve(settings: Settings, health: Health) -> None:
    """Serve until SIGTERM or SIGINT. The database may be down: /health/ready and the health then report it.

    Raises:
        AddressUnusable: The process cannot listen on its address.
        KeysNotRequired: It would listen for other machines, and nobody has decided about keys.
        DatabaseRefused, CodeOutdated: The process cannot use its database, and waiting does not help.
    """
    with ExitStack() as open_now:
        database = open_now.enter_context(closing(_open_database(settings)))
        listeners = listen(settings.api_host, settings.api_port, settings="TRIM_API_HOST or TRIM_API_PORT")
        for listener in listeners:
            open_now.enter_context(listener)
        check_exposure(settings)
        _check_database(settings, database, health)
        app = create_app(settings, database)
        loop = health.loop("event loop", limit_s=LOOP_LIMIT_S)
        server = Server(configure(app, settings), app.state.following, loop, keys=settings.api_keys)
        # uvicorn raises the signal again after it has stopped; the default handlers would end the process there.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, server.handle_exit)
        stopping = threading.Event()
        watcher = threading.Thread(
            target=_watch, args=(settings, database, health, stopping), name="watcher", daemon=True
        )
        watcher.start()
        try:
            server.run([*listeners])
        finally:
            stopping.set()
            watcher.join()
    _log.info("api_stopped")


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Configure the HTTP server for the app."""
    return uvicorn.Config(
        app,
        http=partial(TimedProtocol, request_timeout_s=settings.api_request_timeout_s),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        root_path=settings.api_root_path,
        timeout_keep_alive=settings.api_keep_alive_s,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )


def _check_database(settings: Settings, database: Database, health: Health) -> None:
    """Look once whether the database and its schema can be used; log what the process has to wait for.

    Raises:
        DatabaseRefused, CodeOutdated: Waiting does not help.
    """
    try:
        watch_database(database, health, every_s=settings.heartbeat_s)
    except RefusedError:
        raise
    except RetryableError as error:
        _log.warning("database_awaited", code=error.code, detail=explain(error))


def _watch(settings: Settings, database: Database, health: Health, stopping: threading.Event) -> None:
    """Keep the health's conditions up to date, as often as other processes send heartbeats."""
    loop = health.loop("watcher", limit_s=settings.heartbeat_s + WATCH_LIMIT_S)
    while not stopping.is_set():
        loop.pause()  # A database that keeps connections and does not answer holds the thread.
        try:
            with suppress(TrimError):  # The health has it.
                watch_database(database, health, every_s=settings.heartbeat_s)
        finally:
            loop.beat()
        stopping.wait(settings.heartbeat_s)
    loop.pause()
