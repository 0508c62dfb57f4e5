"""Sequences that are computed together, with their keys and values in one array that the graph reads in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

import numpy as np

from shared.engines.embedded.cache import PrefixCache
from shared.engines.embedded.runtime import Floats, Model

_BUCKET = 64
"""Tokens by which the array's capacity grows: what is never filled is computed all the same, and masked."""

_MAX_BLOCK = 2048
"""Tokens, padding included, past which no row is added to a run; bounds the memory of the attention scores."""


@dataclass(kw_only=True, eq=False)
class Row:
    """One sequence of a batch."""

    problem_id: UUID
    ids: list[int]
    outputs_at: Sequence[int] = (-1,)
    """Places in `ids` that outputs are wanted for when it joins a batch; negative ones count from the end."""
    computed: int = 0
    """How many of the first ids the batch holds keys and values of."""
    cached: int = 0
    """How many of them came from the cache when the row joined."""

    @property
    def pending(self) -> int:
        """How many ids are still to be computed."""
        return len(self.ids) - self.computed

    def on_join(self) -> None:
        """React to having joined: `cached` is known, and what is pending is computed next."""


SomeRow = TypeVar("SomeRow", bound=Row)


class Batch(Generic[SomeRow]):
    """Sequences that join, are computed together, and leave at any time.

    Row i of the array is that of `rows[i]`. Rows stay gapless, so that any run of them is a view that goes to the
    graph without a copy; places past a row's end hold what is left of others, or zeros, and are masked there.
    """

    def __init__(self, model: Model, *, cache_tokens: int) -> None:
        self._model = model
        self._cache = PrefixCache(cache_tokens)
        self.rows: list[SomeRow] = []
        self._kv = self._empty(0, 0)

    def join(self, rows: Sequence[SomeRow]) -> list[tuple[SomeRow, Floats]]:
        """Take rows in and compute what the cache does not hold of them; return each with its outputs."""
        first, found = len(self.rows), {}
        for row in rows:
            needed = min(place % len(row.ids) for place in row.outputs_at)
            kv = found[row] = self._cache.longest_prefix(row.problem_id, row.ids[:needed])
            row.computed = row.cached = 0 if kv is None else kv.shape[-2]
            row.on_join()
        self.rows += sorted(rows, key=lambda row: row.pending, reverse=True)
        self._reserve(keep=first)
        for index, row in enumerate(self.rows[first:], first):
            if (kv := found[row]) is not None:
                self._kv[:, :, index, :, : row.computed] = kv
        joined = []
        while first < len(self.rows):
            end = self._group_end(first)
            outputs = self._advance(first, end)
            for row in self.rows[first:end]:
                count = len(row.outputs_at)
                joined.append((row, outputs[:count]))
                outputs = outputs[count:]
            first = end
        return joined

    def _group_end(self, first: int) -> int:
        """Find the end of the rows, sorted by what is pending, that are well computed together with the first one.

        The first pads all others: those with less than half as much to compute are better off in a run of their own.
        """
        width, end = self.rows[first].pending, first + 1
        while end < len(self.rows) and 2 * self.rows[end].pending > width and (end - first) * width < _MAX_BLOCK:
            end += 1
        return end

    def decode(self) -> Floats:
        """Compute the one id that each row has gained since it was computed last; return the outputs, a line a row."""
        self._reserve(keep=len(self.rows))
        return self._advance(0, len(self.rows))

    def leave(self, row: SomeRow) -> None:
        """Let a row go, and remember in the cache what was computed of it."""
        index, last = self.rows.index(row), self.rows.pop()
        self._cache.store(row.problem_id, row.ids[: row.computed], self._kv[:, :, index, :, : row.computed])
        if last is not row:
            self._kv[:, :, index, :, : last.computed] = self._kv[:, :, len(self.rows), :, : last.computed]
            self.rows[index] = last

    def _advance(self, first: int, end: int) -> Floats:
        """Compute what is pending of a run of rows."""
        rows = self.rows[first:end]
        lengths = np.array([row.computed for row in rows])
        width = max(row.pending for row in rows)
        block = np.zeros((len(rows), width), np.int64)
        wanted = []
        for index, row in enumerate(rows):
            block[index, : row.pending] = row.ids[row.computed :]
            wanted += [index * width + place % len(row.ids) - row.computed for place in row.outputs_at]
        past = self._kv[:, :, first:end]
        if width > 1:
            # A wide block computes width x capacity scores: a narrower copy of the past is cheaper than masked work.
            past = past[..., : lengths.max(), :]
        outputs, new_kv = self._model.compute(
            ids=block,
            past_length=lengths,
            rows=np.array(wanted),
            past=[np.ascontiguousarray(part) for layer in past for part in layer],
        )
        if width == 1:
            self._kv[:, :, np.arange(first, end), :, lengths] = new_kv[..., 0, :].transpose(2, 0, 1, 3, 4)
        else:
            for index, row in enumerate(rows):
                self._kv[:, :, first + index, :, row.computed : len(row.ids)] = new_kv[:, :, index, :, : row.pending]
        for row in rows:
            row.computed = len(row.ids)
        return outputs

    def _reserve(self, *, keep: int) -> None:
        """Make the array fit its rows, of which the first `keep` hold something.

        It shrinks too, once it is more than twice too wide: what a long row needed, all others would pay for.
        """
        slots, capacity = self._kv.shape[2], self._kv.shape[4]
        needed = -(-max(len(row.ids) for row in self.rows) // _BUCKET) * _BUCKET
        if len(self.rows) <= slots and capacity // 2 <= needed <= capacity:
            return
        fitting = self._empty(1 << (len(self.rows) - 1).bit_length(), needed)
        for index, row in enumerate(self.rows[:keep]):
            fitting[:, :, index, :, : row.computed] = self._kv[:, :, index, :, : row.computed]
        self._kv = fitting

    def _empty(self, slots: int, capacity: int) -> Floats:
        """Make an array (layers, 2, slots, heads, capacity, head size); zeros, since a mask cannot hide a NaN."""
        model = self._model
        return np.zeros((model.layers, 2, slots, model.kv_heads, capacity, model.head_size), np.float32)
