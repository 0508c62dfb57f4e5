"""Tells whether a server runs on this machine."""

from __future__ import annotations


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine.

    A proxy of the environment (`http_proxy`) reaches other machines; this one it may be unable to reach.
    """
    return host in {"localhost", "::1"} or host.startswith("127.")
