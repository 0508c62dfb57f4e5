"""A role that tries again at once whenever it has lost a server.

python -m tests.integration.hasty_role services.generator small
"""

from __future__ import annotations

import runpy
import sys

from shared import backoff

if __name__ == "__main__":
    backoff.RECONNECT = backoff.Backoff(first_s=0.01, limit_s=0.02)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
