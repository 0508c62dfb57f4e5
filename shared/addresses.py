"""Addresses of listeners: binding one, and its URL."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence

from shared.errors import PermanentError


class AddressUnusable(PermanentError):
    """The process cannot listen on its address; change it."""

    code = "address_unusable"


def listen(host: str, port: int, *, settings: str) -> Sequence[socket.socket]:
    """Listen on every address of a host; the caller closes the sockets.

    Args:
        host: Name or address. `::` also accepts IPv4, where the system can.
        port: Port; 0 picks a free one, on the first address alone.
        settings: Names of the settings that hold both, for the error.

    Raises:
        AddressUnusable: The address is in use, not one of this machine, or not permitted.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found if port else found[:1]):
            is_dual = host == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server(address, family=family, dualstack_ipv6=is_dual)
            listeners.append(listener)
            # Its connections inherit this. asyncio sets it only on sockets that name their protocol; without it, the
            # kernel holds the body of a response back until the client acknowledges the header, often for 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        for each in listeners:
            each.close()
        # The error's text repeats the address; those of name resolution have no number of the system.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise AddressUnusable(
            f"The process cannot listen on {host}, port {port} ({reason}); change {settings}."
        ) from None
    return listeners


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a listener on a host: all its addresses are of the loopback."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    # An address of IPv6 may name its interface, as in fe80::1%eth0.
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def http_url(host: str, port: int) -> str:
    """Return the URL of an HTTP server; IPv6 addresses need brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
