"""Sockets that listen."""

from __future__ import annotations

import socket

import pytest

from shared.addresses import is_loopback, listen


def test_connections_send_the_parts_of_a_response_at_once() -> None:
    [listener] = listen("127.0.0.1", 0, settings="TRIM_API_PORT")
    with listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_the_loopback_is_known_by_its_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "fe80::1%lo", "no-such-host.invalid"])
def test_every_other_address_may_be_reached_by_others(host: str) -> None:
    assert not is_loopback(host)
