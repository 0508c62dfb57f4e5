"""The container health check, `python -m shared.observe.probe`: asks this container's process whether it is ready.

It prints each condition that is not met, and exits with 0 if the process is ready and with 1 if not. It imports nothing
but the standard library, because it runs every few seconds.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Mapping

TIMEOUT_S = 5.0

LOOPBACKS: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, not bound
"""Where to ask a process that listens on every interface."""


def unmet_conditions(environment: Mapping[str, str]) -> list[str]:
    """Ask the process whose settings are in the environment; return one sentence for each condition that is not met."""
    port = environment.get("TRIM_METRICS_PORT", "")
    if not port.isdecimal() or port == "0":
        return ["TRIM_METRICS_PORT does not name the port to ask; set it to the port of the process."]
    named = environment.get("TRIM_METRICS_HOST", "127.0.0.1")
    host = LOOPBACKS.get(named, named)
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        answer = json.loads(connection.getresponse().read())
        return [f"{each['name']}: {each['detail']}" for each in answer["conditions"] if not each["is_met"]]
    except (OSError, http.client.HTTPException) as error:
        return [f"The process does not answer on port {port} of {host} ({type(error).__name__})."]
    except (ValueError, LookupError, TypeError):
        return [f"What answers on port {port} of {host} is another program; check TRIM_METRICS_PORT."]
    finally:
        connection.close()


if __name__ == "__main__":
    unmet = unmet_conditions(os.environ)
    sys.stdout.writelines(f"{sentence}\n" for sentence in unmet)
    sys.exit(bool(unmet))
