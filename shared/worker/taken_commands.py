"""The commands that a worker process runs or has done: a broker that redelivers one of them has it carried out once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from shared.messages import Command
from shared.worker.results import Settle

REMEMBERED: Final = 10_000
"""Number of commands that a process remembers after their results were confirmed."""


class TakenCommands:
    """Commands by id and time of issue. Safe to use from many threads.

    A database that was restored to an earlier time issues commands with known ids again. They have a later time, and
    are other commands.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[UUID, datetime], list[Settle]] = {}
        """How to settle the deliveries of each command that runs, or whose results are not confirmed."""
        self._done: OrderedDict[tuple[UUID, datetime], None] = OrderedDict()

    def begin(self, command: Command, settle: Settle) -> Settle | None:
        """Begin a command; return how to settle all its deliveries, or `None` if this one needs no work.

        A command that is requeued is forgotten, and may be begun again.
        """
        key = command.id, command.issued_at
        with self._lock:
            if key not in self._open and key not in self._done:
                self._open[key] = [settle]
                return partial(self._settle, key)
        self.join(command, settle)
        return None

    def join(self, command: Command, settle: Settle) -> bool:
        """Have a delivery settled together with earlier ones of its command; return `False` if there are none."""
        key = command.id, command.issued_at
        with self._lock:
            if (settles := self._open.get(key)) is not None:
                settles.append(settle)
                return True
            if key not in self._done:
                return False
        settle(requeue=False)
        return True

    def leave(self, command: Command) -> Settle:
        """Forget a command that is published again for any worker; return how to settle all its deliveries."""
        with self._lock:
            settles = self._open.pop((command.id, command.issued_at), [])
        return partial(_settle_all, settles)

    @property
    def open_count(self) -> int:
        """Number of commands that run, or whose results are not confirmed."""
        with self._lock:
            return len(self._open)

    def _settle(self, key: tuple[UUID, datetime], *, requeue: bool) -> None:
        with self._lock:
            settles = self._open.pop(key, [])
            if not requeue:
                self._done[key] = None
                if len(self._done) > REMEMBERED:
                    self._done.popitem(last=False)
        _settle_all(settles, requeue=requeue)


def _settle_all(settles: list[Settle], *, requeue: bool) -> None:
    for settle in settles:
        settle(requeue=requeue)
