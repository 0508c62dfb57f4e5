"""The API process: an HTTP server around the app."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack, closing, suppress
from types import FrameType

import uvicorn

from services.api.app import create_app
from shared.addresses import http_url, listen
from shared.errors import RefusedError, RetryableError, TrimError, explain
from shared.log import get_logger
from shared.observe.health import Health, LoopBeat
from shared.settings import Settings
from shared.store.database import Database
from shared.store.watching import watch_database

POOL_SIZE = 10
STOP_TIMEOUT_S = 15
KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open. Proxies close theirs after 60 at most, so none sends a request into a
connection that this end is closing."""

LOOP_LIMIT_S = 60.0
"""Seconds without a round after which the event loop counts as stalled; it takes ten rounds a second."""

WATCH_LIMIT_S = 60.0
"""The same for the thread that watches the database, in addition to its pauses; its time-outs are shorter."""

_log = get_logger(__name__)


class _Server(uvicorn.Server):
    """Logs its addresses once it listens, and ends waiting requests when it stops."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event, loop: LoopBeat) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._loop = loop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping.set()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Record that the event loop makes progress."""
        self._loop.beat()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            _log.info("api_started", address=http_url(*each.getsockname()[:2]))


def serve(settings: Settings, health: Health) -> None:
    """Serve until SIGTERM or SIGINT. The database may be down: /health/ready and the health then report it.

    Raises:
        AddressUnusable: The process cannot listen on its address.
        DatabaseRefused, CodeOutdated: The process cannot use its database, and waiting does not help.
    """
    with ExitStack() as open_now:
        database = open_now.enter_context(closing(Database(settings.require_database_url(), pool_size=POOL_SIZE)))
        listeners = listen(settings.api_host, settings.api_port, settings="TRIM_API_HOST or TRIM_API_PORT")
        for listener in listeners:
            open_now.enter_context(listener)
        _check_database(settings, database, health)
        app = create_app(settings, database)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
        server = _Server(config, app.state.stopping, health.loop("event loop", limit_s=LOOP_LIMIT_S))
        # uvicorn raises the signal again after it has stopped; the default handlers would end the process there.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, server.handle_exit)
        watcher = threading.Thread(
            target=_watch, args=(settings, database, health, app.state.stopping), name="watcher", daemon=True
        )
        watcher.start()
        try:
            server.run([*listeners])
        finally:
            app.state.stopping.set()
            watcher.join()
    _log.info("api_stopped")


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
