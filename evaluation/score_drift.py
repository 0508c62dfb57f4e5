"""Drift of PRM scores: whether their distribution differs from that of a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from evaluation.score_calibration import Array
from shared.errors import PermanentError
from stack.whole_files import write_whole

WATCH: Final = 0.1
"""PSI from which a shift is worth watching (Siddiqi, "Credit Risk Scorecards", 2006, chapter 9)."""

SHIFTED: Final = 0.25
"""PSI from which the distributions differ (same source)."""

BINS: Final = 10
PERMUTATIONS: Final = 2000
BOUND: Final = 0.95
"""Quantile of the PSI of permuted problems that a PSI must exceed to count."""

_SMOOTHING: Final = 0.5
"""Added to the count of each bin, so that an empty bin has a logarithm."""

Counts = Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1)]


class BadReference(PermanentError):
    """The reference cannot be used; save it again with `trim prm calibration --save`."""

    code = "bad_reference"


class Drift(StrEnum):
    """What a comparison of two distributions found."""

    STABLE = "stable"
    WATCH = "watch"
    SHIFTED = "shifted"


class ReferenceScores(BaseModel):
    """Distribution of a PRM's scores, as a file keeps it.

    It has the counts of each problem, because the bound on chance permutes problems.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    """Format of the file."""
    prm: str
    """Model id of the PRM."""
    created_at: AwareDatetime
    source: str
    """Where the scores are from, such as a batch."""
    edges: Annotated[list[Annotated[float, Field(ge=0, le=1.1)]], Field(min_length=1)]
    """Inner bounds of the bins, rising; a bin includes its lower bound."""
    counts: Annotated[list[Counts], Field(min_length=1)]
    """Number of scores in each bin, by problem."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(len(each) != len(self.edges) + 1 for each in self.counts):
            raise ValueError("each problem has one count for each bin")
        if sorted(set(self.edges)) != self.edges:
            raise ValueError("the bounds of the bins do not rise")
        if not any(map(any, self.counts)):
            raise ValueError("there is no score")
        return self

    @classmethod
    def of(cls, scores: Sequence[Sequence[float]], *, prm: str, created_at: AwareDatetime, source: str) -> Self:
        """Make the reference of scores, given by problem, with bins that hold about the same number of scores.

        Raises:
            ValueError: There is no score.
        """
        bounds = edges(np.concatenate([np.asarray(each, dtype=np.float64) for each in scores]))
        counted = [row.tolist() for row in count(scores, bounds) if row.any()]
        return cls(prm=prm, created_at=created_at, source=source, edges=bounds.tolist(), counts=counted)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a reference from a file.

        Raises:
            BadReference: The file is missing or damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise BadReference(f"{path} cannot be read ({error.strerror}).") from error
        except ValidationError as error:
            raise BadReference(
                f"{path} is not a reference of PRM scores; save one with `trim prm calibration --save`."
            ) from error

    def write(self, path: Path) -> None:
        """Write the reference to a file.

        Raises:
            CannotWrite: The file cannot be written.
        """
        write_whole(path, f"{self.model_dump_json()}\n".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Scores compared with a reference."""

    prm: str
    reference_problems: int
    reference_scores: int
    problems: int
    scores: int
    index: float
    """PSI."""
    bound: float
    """PSI that problems of one distribution exceed with a probability of 5 %."""
    shares: Sequence[tuple[float, float]]
    """Share of the scores in each bin: of the reference, and now."""
    edges: Sequence[float]

    @property
    def drift(self) -> Drift:
        """What was found; a PSI that chance explains counts as stable."""
        if self.index <= self.bound or self.index < WATCH:
            return Drift.STABLE
        return Drift.SHIFTED if self.index >= SHIFTED else Drift.WATCH


def compare(
    reference: ReferenceScores, scores: Mapping[str, Sequence[Sequence[float]]], *, seed: int = 0
) -> Comparison:
    """Compare scores with a reference of the same PRM.

    Args:
        reference: Where the scores should be.
        scores: Scores by problem, by the model id of the PRM.
        seed: Seed of the permutations.

    Raises:
        BadReference: The scores are of another PRM.
        ValueError: There are no scores.
    """
    found = [name for name, each in scores.items() if any(each)]
    if not found:
        raise ValueError("there are no scores to compare")
    if found != [reference.prm]:
        raise BadReference(
            f"The reference has scores of {reference.prm}, and these are of {', '.join(sorted(found))}; scores of two"
            " PRMs cannot be compared."
        )
    now = count(scores[reference.prm], np.asarray(reference.edges))
    now = now[now.any(axis=1)]
    then = np.asarray(reference.counts, dtype=np.int64)
    shares = np.stack([then.sum(axis=0) / then.sum(), now.sum(axis=0) / now.sum()], axis=1)
    return Comparison(
        prm=reference.prm,
        reference_problems=len(then),
        reference_scores=int(then.sum()),
        problems=len(now),
        scores=int(now.sum()),
        index=float(stability_index(then.sum(axis=0), now.sum(axis=0))),
        bound=chance(then, now, seed=seed),
        shares=[(before, after) for before, after in shares.tolist()],
        edges=reference.edges,
    )


def edges(scores: Array, *, bins: int = BINS) -> Array:
    """Return the inner bounds of bins that hold about the same number of scores; a bin includes its lower bound.

    A score that alone fills a bin has that bin for itself: with bounds at quantiles only, scores that are all equal
    would share one bin with all lower or all higher ones.

    Raises:
        ValueError: There is no score.
    """
    if not len(scores):
        raise ValueError("there are no scores to make bins of")
    quantiles = np.quantile(scores, np.linspace(0, 1, bins + 1), method="inverted_cdf")
    values, times = np.unique(quantiles, return_counts=True)
    heavy = values[times > 1]
    return np.unique(np.concatenate([quantiles[1:-1], heavy, np.nextafter(heavy, 2)]))


def count(scores: Sequence[Sequence[float]], bounds: Array) -> npt.NDArray[np.int64]:
    """Count the scores of each problem by bin: shape [problems, bins]."""
    places = (np.searchsorted(bounds, np.asarray(each, dtype=np.float64), side="right") for each in scores)
    rows = [np.bincount(each, minlength=len(bounds) + 1) for each in places]
    return np.stack(rows).astype(np.int64)


def stability_index(reference: npt.NDArray[np.int64], current: npt.NDArray[np.int64]) -> Array:
    """Compute the population stability index (PSI) of counts by bin, over the last axis.

    PSI = sum of (q - p) ln(q / p), with the smoothed shares p of the reference and q of the current scores (Siddiqi,
    "Credit Risk Scorecards", 2006, chapter 9).
    """
    first, second = (
        (counts + _SMOOTHING) / (counts + _SMOOTHING).sum(axis=-1, keepdims=True) for counts in (reference, current)
    )
    index: Array = ((second - first) * np.log(second / first)).sum(axis=-1)
    return index


def chance(reference: npt.NDArray[np.int64], current: npt.NDArray[np.int64], *, seed: int = 0) -> float:
    """Compute the PSI that problems of one distribution exceed with a probability of 5 %.

    Problems move between both sides at random, with all their scores: scores of one solution resemble each other, so
    single scores would give too low a bound.

    Args:
        reference: Counts by problem and bin of the reference.
        current: Counts by problem and bin of the current scores.
        seed: Seed of the permutations.
    """
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([reference, current])
    order = np.argsort(rng.random((PERMUTATIONS, len(pooled))), axis=1)
    is_current = (order < len(current)).astype(np.float64)
    drawn = np.rint(is_current @ pooled).astype(np.int64)
    return float(np.quantile(stability_index(pooled.sum(axis=0) - drawn, drawn), BOUND))
