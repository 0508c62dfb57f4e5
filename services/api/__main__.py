"""Runs the API: `python -m services.api`."""

from __future__ import annotations

from contextlib import closing

import uvicorn

from services.api.app import create_app
from shared.log import get_logger
from shared.process import run
from shared.settings import Settings
from shared.store.database import Database

POOL_SIZE = 10
STOP_TIMEOUT_S = 15

_log = get_logger(__name__)


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def _log_started_message(self, _listeners: object) -> None:
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                _log.info("api_started", address=f"http://{host}:{port}")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. It starts without its database too: readiness then says what is down."""
    with closing(Database(settings.require_database_url(), pool_size=POOL_SIZE)) as database:
        config = uvicorn.Config(
            create_app(settings, database),
            host=settings.api_host,
            port=settings.api_port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
        _Server(config).run()
    _log.info("api_stopped")


if __name__ == "__main__":
    run(serve, role="api")
