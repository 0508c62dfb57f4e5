"""Computes sequences together; their keys and values are in one array that the graph reads in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

import numpy as np

from shared.engines.embedded.cache import PrefixCache
from shared.engines.embedded.runtime import Floats, Model

_BUCKET = 64
"""Tokens by which the array's capacity grows; unused capacity costs computation too, and is masked."""

_MAX_BLOCK = 2048
"""Tokens of a run, padding included, after which no row is added to it; bounds the memory of the attention scores."""


@dataclass(kw_only=True, eq=False)
class Row:
    """One sequence of a batch."""

    problem_id: UUID
    ids: list[int]
    outputs_at: Sequence[int] = (-1,)
    """Places in `ids` whose outputs `join` returns; negative ones count from the end."""
    computed: int = 0
    """Number of first ids whose keys and values are in the batch."""
    cached: int = 0
    """Number of those that came from the cache when the row joined."""

    @property
    def pending(self) -> int:
        """Number of ids that are not yet computed."""
        return len(self.ids) - self.computed

    def on_first_run(self) -> None:
        """React to the first run: `cached` is set, and the pending ids are computed now.

        A worker sees by what is counted here that the engine computes, also while a large batch takes several runs.
        """


SomeRow = TypeVar("SomeRow", bound=Row)


class Batch(Generic[SomeRow]):
    """A batch of sequences, which join and leave at any time.

    Row i of the array belongs to `rows[i]`. There are no gaps, so any range of rows is a view that the graph reads
    without a copy. Places past a row's end contain remains of other rows, or zeros, and are masked.
    """

    def __init__(self, model: Model, *, cache_tokens: int) -> None:
        self._model = model
        self._cache = PrefixCache(cache_tokens)
        self.rows: list[SomeRow] = []
        self._kv = self._empty(0, 0)

    def join(self, rows: Sequence[SomeRow]) -> list[tuple[SomeRow, Floats]]:
        """Add rows and compute what the cache does not have of them; return each row with its outputs."""
        first, found = len(self.rows), {}
        for row in rows:
            needed = min(place % len(row.ids) for place in row.outputs_at)
            kv = found[row] = self._cache.longest_prefix(row.problem_id, row.ids[:needed])
            row.computed = row.cached = 0 if kv is None else kv.shape[-2]
        self.rows += sorted(rows, key=lambda row: row.pending, reverse=True)
        self._reserve(keep=first)
        for index, row in enumerate(self.rows[first:], first):
            if (kv := found[row]) is not None:
                self._kv[:, :, index, :, : row.computed] = kv
        joined = []
        while first < len(self.rows):
            end = self._group_end(first)
            for row in self.rows[first:end]:
                row.on_first_run()
            outputs = self._advance(first, end)
            for row in self.rows[first:end]:
                count = len(row.outputs_at)
                joined.append((row, outputs[:count]))
                outputs = outputs[count:]
            first = end
        return joined

    def _group_end(self, first: int) -> int:
        """Find the end of the rows to compute together with the first one; rows are sorted by pending ids, most first.

        All rows are padded to the first one, so rows with less than half as many pending ids go into a later run.
        """
        width, end = self.rows[first].pending, first + 1
        while end < len(self.rows) and 2 * self.rows[end].pending > width and (end - first) * width < _MAX_BLOCK:
            end += 1
        return end

    def decode(self) -> Floats:
        """Compute the one id that each row has gained since the last run; return one line of outputs per row."""
        self._reserve(keep=len(self.rows))
        return self._advance(0, len(self.rows))

    def leave(self, row: SomeRow) -> None:
        """Remove a row, and store in the cache what was computed of it."""
        index, last = self.rows.index(row), self.rows.pop()
        self._cache.store(row.problem_id, row.ids[: row.computed], self._kv[:, :, index, :, : row.computed])
        if last is not row:
            self._kv[:, :, index, :, : last.computed] = self._kv[:, :, len(self.rows), :, : last.computed]
            self.rows[index] = last

    def _advance(self, first: int, end: int) -> Floats:
        """Compute the pending ids of a range of rows."""
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
            # A wide block computes width x capacity scores; copying a narrower past costs less than masked scores.
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
        """Make the array fit its rows, and keep the contents of the first `keep`.

        The array also shrinks once it has more than twice the capacity needed: otherwise all rows would pay for the
        length of a long one that has left.
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
        """Make an array (layers, 2, slots, heads, capacity, head size) of zeros, because a mask cannot hide a NaN."""
        model = self._model
        return np.zeros((model.layers, 2, slots, model.kv_heads, capacity, model.head_size), np.float32)
