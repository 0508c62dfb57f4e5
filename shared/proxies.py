"""Proxies that the environment names (`http_proxy` and the like), for HTTP clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from shared.errors import PermanentError


class UnusableProxy(PermanentError):
    """A proxy of the environment cannot be used; change http_proxy, https_proxy, all_proxy or no_proxy."""

    code = "unusable_proxy"


@contextmanager
def explaining_proxies() -> Iterator[None]:
    """Make an HTTP client, which reads the proxies of the environment.

    Raises:
        UnusableProxy: One of them is no URL, has an unknown scheme, or needs a library that is not installed.
    """
    try:
        yield
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise UnusableProxy from error
