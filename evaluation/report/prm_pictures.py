"""Pictures of what PRM scores are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from evaluation.report.drawing import COLOURS, INK, PAPER, SOFT, WIDTH, Picture, draw, percent
from evaluation.report.measures import Measures, scores_of
from evaluation.score_calibration import Bin, Labelled, calibration_error, error_interval, reliability

_BINS = 20
"""Bins of the histogram."""

_RIGHT, _WRONG = COLOURS[0], COLOURS[1]


def histogram(measures: Measures) -> Picture | None:
    """Draw the distribution of the scores of right and of wrong steps; `None` without judged steps."""
    judged = measures.study.judged
    if not judged:
        return None
    right, wrong = (scores_of(judged, is_right=is_right) for is_right in (True, False))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True)
        for axes, scores, name, colour, hatch in (
            (panels[0], right, "right", _RIGHT, ""),
            (panels[1], wrong, "wrong", _WRONG, "////"),
        ):
            _bars(axes, scores, colour=colour, hatch=hatch)
            axes.set_ylabel(f"share of\n{name} steps")
            axes.set_title(f"{len(scores):,} {name} steps", loc="left")
        panels[1].set_xlabel("PRM score")

    separation = measures.separation
    auc = "" if separation is None else f" AUC {separation:.3f}."
    doubted, missed = (_share(np.array(right) <= 0.5), _share(np.array(wrong) > 0.5))  # noqa: PLR2004 - the middle
    return draw(
        "prm-scores",
        paint,
        caption=f"PRM scores of right and of wrong steps, in bins of width {1 / _BINS:g}.{auc}",
        alt=f"Two histograms. {doubted} of the right steps have a score of 0.5 or less, and {missed} of the wrong steps"
        f" one above 0.5.{auc}",
        height=0.52 * WIDTH,
    )


def reliability_diagram(measures: Measures) -> Picture | None:
    """Draw the share of right steps against the score; `None` without judged steps."""
    labelled = measures.labelled
    if labelled is None:
        return None
    bins = reliability(labelled)
    words = _error_in_words(labelled)

    def paint(figure: Figure) -> None:
        shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _diagram(shares, bins)
        shares.text(0.03, 0.92, words, transform=shares.transAxes, fontsize=8)
        _counts(counts, bins)

    return draw(
        "prm-reliability",
        paint,
        caption="Share of right steps against the PRM score, in bins of width 0.1. On the diagonal, scores are"
        f" calibrated. Bars are 95 % bootstrap intervals over problems. {words}.",
        alt="Reliability diagram. "
        + " ".join(
            f"Mean score {each.score:.2f}: {each.right:.0%} of {each.count:,} steps are right." for each in bins
        ),
        height=0.75 * WIDTH,
        width=0.75 * WIDTH,
    )


def _bars(axes: Axes, scores: Sequence[float], *, colour: str, hatch: str) -> None:
    counts, edges = np.histogram(scores, bins=_BINS, range=(0, 1))
    shares = counts / max(1, len(scores))
    axes.bar(
        edges[:-1], shares, width=1 / _BINS, align="edge", color=colour, edgecolor=PAPER, linewidth=0.8, hatch=hatch
    )
    axes.grid(visible=False, axis="x")
    axes.set_xlim(0, 1)
    percent(axes, y=True)


def _diagram(axes: Axes, bins: Sequence[Bin]) -> None:
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle="--")
    bars = [(each.score, each.interval.low, each.interval.high) for each in bins]
    axes.vlines(*zip(*bars, strict=True), color=_RIGHT, linewidth=1.2)
    axes.plot([each.score for each in bins], [each.right for each in bins], color=_RIGHT, marker="o")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of right steps")


def _counts(axes: Axes, bins: Sequence[Bin]) -> None:
    axes.bar(
        [each.low for each in bins],
        [each.count for each in bins],
        width=[each.high - each.low for each in bins],
        align="edge",
        color=SOFT,
        edgecolor=PAPER,
    )
    for each in bins:
        middle = (each.low + each.high) / 2
        axes.annotate(
            f"{each.count:,}",
            (middle, each.count),
            (0, 2),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=7,
        )
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.set_ylim(bottom=0.7, top=4 * max(each.count for each in bins))
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("steps")
    axes.set_xlabel("PRM score")


def _error_in_words(labelled: Labelled) -> str:
    interval = error_interval(labelled)
    return f"ECE {calibration_error(labelled):.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _share(chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> str:
    return f"{chosen.mean():.1%}" if len(chosen) else "none"
