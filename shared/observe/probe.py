"""The container health check, `python -m shared.observe.probe`: asks this container's process whether it is well.

It prints each loop that makes no progress and each condition that is not met, and exits with 0 if there are none and
with 1 if there are. It imports nothing but the standard library, because it runs every few seconds.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 2.5
"""Seconds of each of its two requests; a container's health check waits a little longer than both."""

LOOPBACKS: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, not bound
"""Where to ask a process that listens on every interface."""


def shortcomings(environment: Mapping[str, str]) -> list[str]:
    """Ask the process whose settings are in the environment.

    Returns:
        One sentence for each loop that makes no progress, and one for each condition that is not met.
    """
    port = environment.get("TRIM_METRICS_PORT", "")
    if not port.isdecimal() or port == "0":
        return ["TRIM_METRICS_PORT does not name the port to ask; set it to the port of the process."]
    named = environment.get("TRIM_METRICS_HOST", "127.0.0.1")
    host = LOOPBACKS.get(named, named)
    try:
        defects = [str(each) for each in _ask(host, int(port), "/live")["defects"]]
        conditions = _ask(host, int(port), "/ready")["conditions"]
        return [*defects, *(f"{each['name']}: {each['detail']}" for each in conditions if not each["is_met"])]
    except (OSError, http.client.HTTPException) as error:
        return [f"The process does not answer on port {port} of {host} ({type(error).__name__})."]
    except (ValueError, LookupError, TypeError):
        return [f"What answers on port {port} of {host} is another program; check TRIM_METRICS_PORT."]


def _ask(host: str, port: int, path: str) -> Any:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


if __name__ == "__main__":
    found = shortcomings(os.environ)
    sys.stdout.writelines(f"{sentence}\n" for sentence in found)
    sys.exit(bool(found))
