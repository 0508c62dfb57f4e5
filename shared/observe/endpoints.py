"""The listener for operators: `/metrics`, `/live`, `/ready` and `/ready/CONDITION`, on a separate port."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from socketserver import TCPServer
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from shared.addresses import AddressUnusable, http_url
from shared.log import get_logger
from shared.observe.health import Condition, Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_log = get_logger(__name__)

CLIENT_TIMEOUT_S = 10
"""Seconds after which a connection on which nothing arrives is closed."""

MAX_CONNECTIONS = 64
"""Number of open connections, each with a thread. A further one takes the place of the oldest, so that strangers who
open many and say little can neither use up the process' memory nor keep a probe out."""


@contextmanager
def listening(health: Health, *, host: str, port: int) -> Iterator[int]:
    """Serve metrics and health for the duration of the block.

    Args:
        health: Health of this process.
        host: Address or name of the interface; `::` also takes connections over IPv4.
        port: Port; 0 picks a free one.

    Yields:
        The port.

    Raises:
        AddressUnusable: The address is in use, or does not belong to this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = type("_Listener", (_Server,), {"address_family": family})
        server: WSGIServer = make_server(str(address[0]), port, _app(health), listener, handler_class=_Handler)
    except OSError as error:
        raise AddressUnusable(
            f"The metrics cannot be served on port {port} of {host} ({error.strerror or error}); stop what listens"
            " there, or set TRIM_METRICS_PORT or TRIM_METRICS_HOST."
        ) from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    found: int = server.server_port
    _log.info("metrics_served", address=http_url(host, found))
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingWSGIServer):
    allow_reuse_port = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self._open: dict[socket.socket, None] = {}
        self._opening = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the look-up of the machine's name, which takes long where no name server answers."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Handle a connection in a thread; end the oldest if there are too many."""
        with self._opening:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > MAX_CONNECTIONS else None
            if oldest is not None:
                del self._open[oldest]
                with suppress(OSError):  # it may have ended by itself
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Close a connection."""
        with self._opening:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_connection: object) -> None:
        """Log nothing of a client that went away or said nothing: any program may connect, and often."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("metrics_connection_failed")


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT_S

    def log_message(self, *_line: object) -> None:
        """Log nothing: probes would fill the log."""

    def get_stderr(self) -> io.StringIO:
        """Discard the stack trace of a client that does not take its answer; `_app` logs its own errors."""
        return io.StringIO()


def _app(health: Health) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    expose_metrics = make_wsgi_app()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return answer_to(environ, start_response)
        except Exception:
            _log.exception("metrics_request_failed", path=environ["PATH_INFO"])
            raise

    def answer_to(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                answer: Iterable[bytes] = expose_metrics(environ, start_response)
                return answer
            case "/live":
                defects = health.defects
                body = {"live": not defects, **_names(health), "defects": defects}
                return _answer(start_response, body, _status(is_well=not defects))
            case "/ready":
                return _ready(start_response, health, health.conditions)
            case path:
                if asked := [each for each in health.conditions if path == f"/ready/{each.name}"]:
                    return _ready(start_response, health, asked)
                paths = ["/metrics", "/live", "/ready", *(f"/ready/{each.name}" for each in health.conditions)]
                return _answer(start_response, {"paths": paths}, HTTPStatus.NOT_FOUND)

    return app


def _ready(start_response: StartResponse, health: Health, conditions: Sequence[Condition]) -> Iterable[bytes]:
    is_ready = all(each.is_met for each in conditions)
    shown = [
        {"name": each.name, "is_met": each.is_met, "detail": each.detail, "since": each.since.isoformat()}
        for each in conditions
    ]
    body = {"ready": is_ready, **_names(health), "conditions": shown}
    return _answer(start_response, body, _status(is_well=is_ready))


def _names(health: Health) -> dict[str, str]:
    return {"role": health.role, "node": health.node}


def _status(*, is_well: bool) -> HTTPStatus:
    return HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE


def _answer(start_response: StartResponse, body: object, status: HTTPStatus) -> Iterable[bytes]:
    start_response(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]
