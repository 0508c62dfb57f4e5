"""A TCP proxy on loopback whose line can be cut, to play a server that goes away and comes back."""

from __future__ import annotations

import itertools
import math
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Stands between the service and one server."""

    def __init__(self, url: str, *, lives: Iterable[float] = ()) -> None:
        """Begin to take connections.

        Args:
            url: The server's URL.
            lives: After how many of the server's answers each connection is cut; those after the last never are.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = (parts.hostname, parts.port)
        self._lives = itertools.chain(lives, itertools.repeat(math.inf))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        self._listener = self._listen(0)
        self._port = self._listener.getsockname()[1]
        credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        self.url = urlunsplit(parts._replace(netloc=f"{credentials}127.0.0.1:{self._port}"))
        """The server's URL by way of this proxy."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        self._flows.set()
        with self._lock:
            broken, self._open = {self._listener, *self._open}, set()
        for each in broken:
            with suppress(OSError):  # it may have ended by itself
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def mend(self) -> None:
        """Take connections again, unless it does."""
        if self._listener.fileno() < 0:
            self._listener = self._listen(self._port)

    def freeze(self) -> None:
        """Let nothing through any more, and break nothing, as a server does that is stopped or under an alarm."""
        self._flows.clear()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            with self._lock:
                self._open |= {client, server}
            for source, target, life in ((client, server, math.inf), (server, client, next(self._lives))):
                threading.Thread(target=self._pump, args=(source, target, life), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, life: float) -> None:
        with suppress(OSError):
            while (data := source.recv(65_536)) and life > 0:
                self._flows.wait()
                target.sendall(data)
                life -= 1
        with self._lock:
            self._open -= {source, target}
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
