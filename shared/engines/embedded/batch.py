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
"""Tokens, padding included, that are computed in one run; bounds the memory of the attention scores."""


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
        found = []
        joined = []
        for row in rows:
            needed = min(place % len(row.ids) for place in row.outputs_at)
            kv = self._cache.longest_prefix(row.problem_id, row.ids[:needed])
            row.computed = row.cached = 0 if kv is None else kv.shape[-2]
            found.append((row, kv))
        # Rows of like length are computed together: the longest one pads all others.
        found.sort(key=lambda each: len(each[0].ids) - each[0].computed)
        while found:
            width = len(found[-1][0].ids) - found[-1][0].computed
            taken = max(1, _MAX_BLOCK // width)
            group, found = found[-taken:], found[:-taken]
            first = len(self.rows)
            self.rows.extend(row for row, _ in group)
            self._reserve()
            for index, (row, kv) in enumerate(group, first):
                if kv is not None:
                    self._kv[:, :, index, :, : row.computed] = kv
            outputs = self._advance(first)
            for row, _ in group:
                count = len(row.outputs_at)
                joined.append((row, outputs[:count]))
                outputs = outputs[count:]
        return joined

    def decode(self) -> Floats:
        """Compute the one id that each row has gained since it was computed last; return the outputs, a line a row."""
        self._reserve()
        return self._advance(0)

    def leave(self, row: SomeRow) -> None:
        """Let a row go, and remember in the cache what was computed of it."""
        index, last = self.rows.index(row), self.rows.pop()
        self._cache.store(row.problem_id, row.ids[: row.computed], self._kv[:, :, index, :, : row.computed])
        if last is not row:
            self._kv[:, :, index, :, : last.computed] = self._kv[:, :, len(self.rows), :, : last.computed]
            self.rows[index] = last

    def _advance(self, first: int) -> Floats:
        """Compute what is pending of the rows from `first` on."""
        rows = self.rows[first:]
        lengths = np.array([row.computed for row in rows])
        width = max(len(row.ids) - row.computed for row in rows)
        block = np.zeros((len(rows), width), np.int64)
        wanted = []
        for index, row in enumerate(rows):
            block[index, : len(row.ids) - row.computed] = row.ids[row.computed :]
            wanted += [index * width + place % len(row.ids) - row.computed for place in row.outputs_at]
        past = self._kv[:, :, first : len(self.rows)]
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
            self._kv[:, :, np.arange(first, len(self.rows)), :, lengths] = new_kv[..., 0, :].transpose(2, 0, 1, 3, 4)
        for index, row in enumerate(rows):
            count = len(row.ids) - row.computed
            if width > 1:
                self._kv[:, :, first + index, :, row.computed : len(row.ids)] = new_kv[:, :, index, :, :count]
            row.computed += count
        return outputs

    def _reserve(self) -> None:
        """Make the array fit its rows: big enough, and not much too big once long rows have left."""
        slots, capacity = self._kv.shape[2], self._kv.shape[4]
        needed = -(-max(len(row.ids) for row in self.rows) // _BUCKET) * _BUCKET
        if len(self.rows) <= slots and capacity // 2 <= needed <= capacity:
            return
        grown = self._empty(1 << (len(self.rows) - 1).bit_length(), needed)
        for index, row in enumerate(self.rows):
            if index < slots:
                grown[:, :, index, :, : row.computed] = self._kv[:, :, index, :, : row.computed]
        self._kv = grown

    def _empty(self, slots: int, capacity: int) -> Floats:
        """Make an array (layers, 2, slots, heads, capacity, head size); zeros, since a mask cannot hide a NaN."""
        model = self._model
        return np.zeros((model.layers, 2, slots, model.kv_heads, capacity, model.head_size), np.float32)
