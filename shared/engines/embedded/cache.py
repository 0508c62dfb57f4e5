"""Keeps the keys and values that a call computed, for the next call with the same beginning."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from shared.engines.embedded.runtime import Floats


@dataclass(frozen=True, slots=True)
class _Entry:
    ids: list[int]
    kv: Floats
    """(layers, 2, heads, tokens, head size)."""


class PrefixCache:
    """Keys and values of one sequence per problem; evicts the least recently used problem. Not thread-safe."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokens = 0
        self._entries: OrderedDict[UUID, _Entry] = OrderedDict()

    def longest_prefix(self, problem_id: UUID, ids: Sequence[int]) -> Floats | None:
        """Return the keys and values of the prefix that `ids` share with the problem's entry, if there is one."""
        entry = self._entries.get(problem_id)
        if entry is None:
            return None
        self._entries.move_to_end(problem_id)
        pairs = enumerate(zip(entry.ids, ids, strict=False))
        common = next((index for index, (ours, theirs) in pairs if ours != theirs), min(len(entry.ids), len(ids)))
        return entry.kv[..., :common, :]

    def store(self, problem_id: UUID, ids: list[int], kv: Floats) -> None:
        """Store a copy of a sequence's keys and values; replaces the problem's earlier entry."""
        if (old := self._entries.pop(problem_id, None)) is not None:
            self._tokens -= len(old.ids)
        if len(ids) > self._max_tokens:
            return
        self._entries[problem_id] = _Entry(ids, kv.copy())
        self._tokens += len(ids)
        while self._tokens > self._max_tokens:
            _, evicted = self._entries.popitem(last=False)
            self._tokens -= len(evicted.ids)
