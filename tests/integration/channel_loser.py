"""A small model's worker whose channel RabbitMQ closes once, as it does if a message is not acknowledged for too long.

python -m tests.integration.channel_loser small
"""

from __future__ import annotations

import runpy
from typing import Any

from shared.worker import settling

_settle = settling._settle
_left = [1]


def _settle_wrongly(message: Any, *, requeue: bool) -> None:
    if _left and _left.pop():
        message.channel.basic_ack(999_999)  # PRECONDITION_FAILED: there is no such delivery.
        return
    _settle(message, requeue=requeue)


if __name__ == "__main__":
    settling._settle = _settle_wrongly
    runpy.run_module("services.generator", run_name="__main__", alter_sys=True)
