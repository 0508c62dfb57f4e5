"""Models of the policy `pomdp` that tests share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from shared.domain.artefacts import ModelIds
from shared.policies.artefact import Artefact, Floats
from shared.policies.pomdp.model import BINS, Model
from shared.policies.pomdp.policy import Pomdp

SEPARATE = np.full((3, BINS, BINS), 1e-9)
"""Densities of a PRM that gives the states away: the score is high, middling or low, after scores of 1."""
SEPARATE[[0, 2, 1], -1, [19, 10, 0]] = 1.0

BLIND = np.full((3, BINS, BINS), 1.0)
"""Densities of a PRM whose scores mean nothing."""


def make_model(
    observed: Floats = SEPARATE,
    *,
    small_accuracy: float = 0.75,
    rewrite_accuracy: float = 0.9,
    last: tuple[float, ...] = (0.0, 0.25, 1.0),
    small_tokens: float = 10.0,
    large_tokens: float = 20.0,
) -> Model:
    return Model(
        small_accuracy=small_accuracy,
        final_accuracy=small_accuracy,
        rewrite_accuracy=rewrite_accuracy,
        last=np.array(last),
        small_tokens=np.full(len(last), small_tokens),
        large_tokens=np.full(len(last), large_tokens),
        rewrite_tokens=np.array([large_tokens, 0.0]),
        edges=np.arange(BINS + 1) / BINS,
        observed=observed / observed.sum(axis=(1, 2), keepdims=True),
    )


@cache
def released_model() -> Model:
    """Read the model that was released with the TRIM paper."""
    file = json.loads((Path(__file__).parent / "released_trim.json").read_text())
    counts = np.array(file["solutions_by_steps"][1:], dtype=np.float64)
    counts = np.append(counts[:29], counts[29:].sum())
    return make_model(
        np.array(file["observed"]),
        small_accuracy=file["small_accuracy"],
        rewrite_accuracy=file["large_accuracy"],
        last=tuple(counts / counts[::-1].cumsum()[::-1]),
        small_tokens=file["large_tokens"],
        large_tokens=file["large_tokens"],
    )


def artefact_of(
    model: Model, *, small: str = "small@1", large: str = "large@1", prm: str = "prm@1", **changes: Floats | None
) -> Artefact:
    """Make the artefact of a model for some models, with other arrays in place of some; `None` leaves one out."""
    arrays = {name: array for name, array in (model.arrays() | changes).items() if array is not None}
    return Artefact.make(
        arrays,
        policy="pomdp",
        models=ModelIds(small=small, large=large, prm=prm),
        data={},
        settings={},
        metrics={},
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        command="trim policies fit pomdp",
    )


def fitted(model: Model, **parameters: Any) -> Pomdp:
    return Pomdp(**parameters).fitted(artefact_of(model))
