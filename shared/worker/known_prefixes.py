"""The prefixes that a worker process knows: a command carries the last steps, and the worker adds those before them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared.domain.text import extend_digest
from shared.messages import Command

MAX_BYTES: Final = 32 << 20
"""Maximum size of all prefixes, estimated. The problems that were used longest ago are forgotten first."""

LONGER: Final = 4
"""Number of further steps to ask for, for each one that a command carries, if those that are known are others."""

OVERHEAD_BYTES: Final = 200
"""What a prefix, and each step of it, takes besides its text; a character is taken for a byte."""


@dataclass(frozen=True, slots=True)
class _Known:
    texts: tuple[str, ...]
    digests: tuple[str, ...]
    """Digests of the question alone, and of the question and the steps up to each of them: one more than texts."""
    size: int


class KnownPrefixes:
    """The last prefix of each problem, whose question never changes. Safe to use from many threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        self._known: OrderedDict[UUID, _Known] = OrderedDict()
        self._size = 0

    def complete(self, command: Command) -> Command | None:
        """Return a command with its whole prefix and its digest, and remember them.

        Returns:
            `None` if the command leaves out steps that are not known. Digests are compared, so steps of another branch
            of the solution are never taken for them.
        """
        known = self._find(command)
        if known is None:
            return None
        self._keep(command.problem_id, known)
        whole = command.with_prefix(known.texts) if command.omitted_steps else command
        digest = known.digests[-1]
        return whole if whole.prefix_digest == digest else whole.model_copy(update={"prefix_digest": digest})

    def count_known(self, command: Command) -> int:
        """Count the steps at the beginning of a prefix that are probably known, of a command that lacks steps.

        Those that are known may be of another branch, which differs from the prefix at its end, and seldom before. So
        the number is lower in each round, and 0 in the end.
        """
        with self._lock:
            known = self._known.get(command.problem_id)
        count = len(known.texts) if known else 0
        if count < command.omitted_steps:
            return count
        return max(0, command.omitted_steps - LONGER * max(1, len(command.prefix)))

    def _find(self, command: Command) -> _Known | None:
        omitted = command.omitted_steps
        with self._lock:
            known = self._known.get(command.problem_id)
        if known is None or len(known.texts) < omitted:
            if omitted:
                return None
            known = _Known((), (extend_digest("", command.question),), OVERHEAD_BYTES)
        texts = known.texts[:omitted] + command.prefix
        # Nearly always, these are the known steps and one more.
        same = len(known.texts) if texts[: len(known.texts)] == known.texts else omitted
        digests = list(known.digests[: same + 1])
        for text in texts[same:]:
            digests.append(extend_digest(digests[-1], text))
        if omitted and digests[-1] != command.prefix_digest:
            return None
        size = OVERHEAD_BYTES * (1 + len(texts)) + sum(map(len, texts))
        return _Known(texts, tuple(digests), size)

    def _keep(self, problem_id: UUID, known: _Known) -> None:
        with self._lock:
            replaced = self._known.pop(problem_id, None)
            self._known[problem_id] = known
            self._size += known.size - (replaced.size if replaced else 0)
            while self._size > self._max_bytes:
                _, forgotten = self._known.popitem(last=False)
                self._size -= forgotten.size
