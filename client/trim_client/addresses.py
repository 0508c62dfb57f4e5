"""Where the service is, and whether a proxy of the environment may stand between."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx2

DEFAULT_SERVER = "http://127.0.0.1:8080"


def host_of(address: str) -> str:
    """Return the host of an address.

    Raises:
        ValueError: It is not an address of HTTP.
    """
    try:
        httpx2.URL(address)
        parts = urlsplit(address)
        is_address = parts.scheme in {"http", "https"} and parts.port != 0
    except (ValueError, httpx2.InvalidURL):
        is_address = False
    if not is_address or not parts.hostname:
        raise ValueError(f"{address!r} is not an address such as {DEFAULT_SERVER}")
    return parts.hostname


def is_this_machine(host: str) -> bool:
    """Tell whether a host is this machine: by its name, or by one of its addresses.

    A proxy of the environment (`http_proxy`) reaches other machines; this one it may be unable to reach. Other names
    are not looked up: behind a proxy, that may take long and fail.
    """
    name = host.lower().rstrip(".")
    if name in {"localhost", "::1", socket.gethostname().lower()} or name.endswith(".localhost"):
        return True
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)  # The system accepts its own addresses alone.
    except (OSError, ValueError):  # A name, another machine's address, or no name at all.
        return False
    return True
