"""The API process: an HTTP server around the app."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from types import FrameType

import uvicorn

from services.api.app import create_app
from shared.log import get_logger
from shared.settings import Settings
from shared.store.database import Database

POOL_SIZE = 10
STOP_TIMEOUT_S = 15

_log = get_logger(__name__)


class _Server(uvicorn.Server):
    """Logs its address once it listens, and ends waiting requests when it stops."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping.set()
        super().handle_exit(sig, frame)

    def _log_started_message(self, _listeners: object) -> None:
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                _log.info("api_started", address=f"http://{host}:{port}")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. The database may be down: /health/ready then reports it."""
    with closing(Database(settings.require_database_url(), pool_size=POOL_SIZE)) as database:
        app = create_app(settings, database)
        config = uvicorn.Config(
            app,
            host=settings.api_host,
            port=settings.api_port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
        server = _Server(config, app.state.stopping)
        # uvicorn raises the signal again after it has stopped; the default handlers would end the process there.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, server.handle_exit)
        server.run()
    _log.info("api_stopped")
