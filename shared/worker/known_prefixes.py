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

OVERHEAD_BYTES: Final = 200
"""What a prefix, and each step of it, takes besides its text; a character is taken for a byte."""


@dataclass(frozen=True, slots=True)
class _Known:
    texts: tuple[str, ...]
    digests: tuple[str, ...]
    """Digests of the question alone, and of the question and the steps up to each of them: one more than texts."""
    size: int


class KnownPrefixes:
    """The last prefix of each problem. Safe to use from many threads."""

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
        whole = command if not command.omitted_steps else command.with_prefix(known.texts)
        return whole.model_copy(update={"prefix_digest": known.digests[-1]})

    def _find(self, command: Command) -> _Known | None:
        omitted = command.omitted_steps
        texts: tuple[str, ...] = ()
        digests: tuple[str, ...] = (extend_digest("", command.question),)
        if omitted:
            with self._lock:
                known = self._known.get(command.problem_id)
            if known is None or len(known.texts) < omitted:
                return None
            texts, digests = known.texts[:omitted], known.digests[: omitted + 1]
        more = []
        digest = digests[-1]
        for text in command.prefix:
            digest = extend_digest(digest, text)
            more.append(digest)
        if omitted and digest != command.prefix_digest:
            return None
        texts += command.prefix
        size = OVERHEAD_BYTES * (1 + len(texts)) + sum(map(len, texts))
        return _Known(texts, (*digests, *more), size)

    def _keep(self, problem_id: UUID, known: _Known) -> None:
        with self._lock:
            replaced = self._known.pop(problem_id, None)
            self._known[problem_id] = known
            self._size += known.size - (replaced.size if replaced else 0)
            while self._size > self._max_bytes:
                _, forgotten = self._known.popitem(last=False)
                self._size -= forgotten.size
