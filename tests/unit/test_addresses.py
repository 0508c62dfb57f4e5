"""Sockets that listen."""

from __future__ import annotations

import socket

from shared.addresses import listen


def test_connections_send_the_parts_of_a_response_at_once() -> None:
    [listener] = listen("127.0.0.1", 0, settings="TRIM_API_PORT")
    with listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
