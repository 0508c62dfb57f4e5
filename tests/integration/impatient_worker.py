"""A small model's worker whose broker misses it after two seconds without a heartbeat, and not after a minute.

python -m tests.integration.impatient_worker small
"""

from __future__ import annotations

import runpy

from shared.bus import connection

if __name__ == "__main__":
    connection.HEARTBEAT_S = 2
    runpy.run_module("services.generator", run_name="__main__", alter_sys=True)
