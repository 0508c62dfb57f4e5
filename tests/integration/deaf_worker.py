"""A small model's worker whose subscription RabbitMQ drops without a word, as it may when the queue is deleted.

python -m tests.integration.deaf_worker small
"""

from __future__ import annotations

import runpy
from typing import Any

from shared.worker.celery_app import _WatchedConsumer

_on_ready = _WatchedConsumer.on_ready
_left = [1]


def _lose_subscription(self: Any) -> None:
    if _left and _left.pop():
        for tag in self.task_consumer._active_tags.values():
            self.task_consumer.channel.basic_cancel(tag)
    _on_ready(self)


if __name__ == "__main__":
    _WatchedConsumer.on_ready = _lose_subscription  # type: ignore[method-assign]
    runpy.run_module("services.generator", run_name="__main__", alter_sys=True)
