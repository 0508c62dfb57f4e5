"""A worker on a host whose time of day is wrong.

python -m tests.integration.skewed_worker SECONDS {small,large,prm}
"""

from __future__ import annotations

import runpy
import sys
from datetime import datetime, timedelta, tzinfo
from typing import Self

from shared import clock

SKEW = timedelta(seconds=float(sys.argv.pop(1)))


class _WrongTime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + SKEW


if __name__ == "__main__":
    clock.datetime = _WrongTime  # type: ignore[misc]
    if sys.argv[1] == "prm":
        sys.argv.pop(1)
        runpy.run_module("services.prm", run_name="__main__", alter_sys=True)
    else:
        runpy.run_module("services.generator", run_name="__main__", alter_sys=True)
