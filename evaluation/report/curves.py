"""Pictures of accuracy against cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from evaluation.report.drawing import INK, SOFT, WIDTH, Look, Picture, draw, percent
from evaluation.report.measures import PARITY, PARITY_TEXT, QUERY_LEVEL, Measured, Measures
from evaluation.resampling import Statistic

_LARGEST_DETAIL: Final = 0.6
"""A detail is drawn if it ends below this share."""

_TOP: Final = 1.04
"""End of the axis of accuracy, with room for a name above 100 %."""

_PARITY_LINE: Final = (0, (6, 3))


@dataclass(frozen=True, slots=True)
class _Dot:
    """A setting on the plane of cost and accuracy."""

    cost: Statistic
    accuracy: Statistic

    @property
    def x(self) -> float:
        return float(self.cost.samples[0])

    @property
    def y(self) -> float:
        return float(self.accuracy.samples[0])


@dataclass(frozen=True, slots=True)
class _Detail:
    """Ranges of both axes."""

    left: float
    right: float
    bottom: float
    top: float


class _Plane:
    """The settings of a study on a plane of cost and accuracy."""

    def __init__(self, measures: Measures, cost: Callable[[Measured], Statistic]) -> None:
        self.small, self.large = (_Dot(cost(end), end.accuracy) for end in (measures.small, measures.large))
        self.dots = {
            policy: [_Dot(cost(each), each.accuracy) for each in measures.settings(policy)]
            for policy in measures.policies
        }
        self.upper = {policy: _upper(dots) for policy, dots in self.dots.items()}
        self.parity = self.small.y + PARITY * (self.large.y - self.small.y)

    def cost_of_parity(self, policy: str) -> float | None:
        """Cost of the policy's cheapest setting that reaches parity; `None` if none does."""
        return next((dot.x for dot in self.upper[policy] if dot.y >= self.parity), None)

    @property
    def detail(self) -> _Detail | None:
        """The part of the plane where half of the step-level policies reach parity, if it is a small one."""
        found = [self.cost_of_parity(policy) for policy in self.upper if policy not in QUERY_LEVEL]
        costs = sorted(each for each in found if each is not None)
        gap = self.large.y - self.small.y
        if not costs or gap <= 0 or (right := 1.5 * costs[len(costs) // 2]) > _LARGEST_DETAIL:
            return None
        bottom = self.small.y + gap / 2
        inside = [dot.x for dots in self.upper.values() for dot in dots if dot.x <= right and dot.y >= bottom]
        return _Detail(max(0.0, min(inside) - 0.1 * right), right, bottom, min(self.large.y + 0.1 * gap, _TOP))


def against_tokens(measures: Measures, looks: Mapping[str, Look]) -> Picture | None:
    """Draw accuracy against the share of large tokens; `None` if large-only spent none."""
    plane = _Plane(measures, lambda each: each.share)
    return _picture(plane, looks, name="accuracy-tokens", axis="large tokens, share of large-only")


def against_true_cost(measures: Measures, looks: Mapping[str, Look]) -> Picture | None:
    """Draw accuracy against the share of true cost; `None` if large-only cost nothing."""
    plane = _Plane(measures, lambda each: each.cost)
    return _picture(plane, looks, name="accuracy-true-cost", axis="true cost, share of large-only")


def _picture(plane: _Plane, looks: Mapping[str, Look], *, name: str, axis: str) -> Picture | None:
    if plane.large.cost.value is None:
        return None
    detail = plane.detail

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 1 if detail is None else 2, squeeze=False)[0]
        for axes in panels:
            _frame(axes, plane)
            for policy in plane.upper:
                _curve(axes, plane, policy, looks[policy])
            axes.set_xlabel(axis)
        panels[0].set_ylabel("accuracy")
        _name_ends(panels[0], plane)
        panels[0].set_ylim(top=min(panels[0].get_ylim()[1], _TOP))
        if detail is not None:
            _show_detail(panels[0], panels[1], detail)
        figure.legend(handles=_legend(plane, looks), loc="outside lower center", ncols=4)

    detailed = "" if detail is None else " The right panel is the framed part of the left one."
    caption = (
        f"Accuracy against {axis}. Lines join the settings of a policy that are more accurate than each cheaper one;"
        f" the others are small marks. Bars are 95 % bootstrap intervals over problems.{detailed}"
    )
    return draw(name, paint, caption=caption, alt=_in_words(plane, axis), height=0.62 * WIDTH)


def _upper(dots: Sequence[_Dot]) -> list[_Dot]:
    """Return the dots that are more accurate than each cheaper one, in order of cost."""
    kept: list[_Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.x, -dot.y)):
        if not kept or dot.y > kept[-1].y:
            kept.append(dot)
    return kept


def _frame(axes: Axes, plane: _Plane) -> None:
    """Draw what does not depend on policies: the baselines, the line between them, and parity."""
    for level in (plane.small.y, plane.large.y):
        axes.axhline(level, color=SOFT, linewidth=0.8, linestyle=":", zorder=1)
    axes.axhline(plane.parity, color=SOFT, linewidth=0.8, linestyle=_PARITY_LINE, zorder=1)
    axes.plot([plane.small.x, plane.large.x], [plane.small.y, plane.large.y], color=SOFT, linewidth=1.2, zorder=1.5)
    _plot(axes, [plane.small, plane.large], Look(INK, "s"), linestyle="none", size=6)
    percent(axes, x=True, y=True)
    axes.margins(y=0.09)


def _curve(axes: Axes, plane: _Plane, policy: str, look: Look) -> None:
    upper = plane.upper[policy]
    others = [dot for dot in plane.dots[policy] if dot not in upper]
    axes.plot(
        [dot.x for dot in others],
        [dot.y for dot in others],
        color=look.colour,
        marker=look.marker,
        markersize=2.5,
        linestyle="none",
        alpha=0.6,
    )
    _plot(axes, upper, look, linestyle=_line(policy), size=5)


def _plot(axes: Axes, dots: Sequence[_Dot], look: Look, *, linestyle: Literal["-", "--", "none"], size: float) -> None:
    """Plot dots with their intervals."""
    up = [(dot.x, bar.low, bar.high) for dot in dots if (bar := dot.accuracy.interval) is not None]
    across = [(dot.y, bar.low, bar.high) for dot in dots if (bar := dot.cost.interval) is not None]
    for lines, bars in ((axes.vlines, up), (axes.hlines, across)):
        if bars:
            lines(*zip(*bars, strict=True), color=look.colour, linewidth=0.8, alpha=0.55, zorder=2)
    axes.plot(
        [dot.x for dot in dots],
        [dot.y for dot in dots],
        color=look.colour,
        marker=look.marker,
        markersize=size,
        markeredgewidth=0,
        linestyle=linestyle,
        zorder=3,
    )


def _name_ends(axes: Axes, plane: _Plane) -> None:
    for end, name, place, side in (
        (plane.small, "small-only", (8, -11), "left"),
        (plane.large, "large-only", (4, 7), "right"),
    ):
        axes.annotate(name, (end.x, end.y), xytext=place, textcoords="offset points", ha=side, fontsize=8)


def _show_detail(whole: Axes, part: Axes, detail: _Detail) -> None:
    part.set_xlim(detail.left, detail.right)
    part.set_ylim(detail.bottom, detail.top)
    width, height = detail.right - detail.left, detail.top - detail.bottom
    frame = Rectangle((detail.left, detail.bottom), width, height, fill=False, edgecolor=SOFT, linewidth=0.8, zorder=4)
    whole.add_patch(frame)
    for spine in part.spines.values():
        spine.set_visible(True)


def _line(policy: str) -> Literal["-", "--"]:
    return "--" if policy in QUERY_LEVEL else "-"


def _legend(plane: _Plane, looks: Mapping[str, Look]) -> list[Line2D]:
    policies = [
        Line2D([], [], color=looks[each].colour, marker=looks[each].marker, linestyle=_line(each), label=each)
        for each in plane.upper
    ]
    return [
        *policies,
        Line2D([], [], color=INK, marker="s", linestyle="none", markersize=6, label="baselines"),
        Line2D([], [], color=SOFT, linewidth=1.2, label="whole problems by lot"),
        Line2D([], [], color=SOFT, linewidth=0.8, linestyle=_PARITY_LINE, label=f"{PARITY_TEXT} of the gap"),
    ]


def _in_words(plane: _Plane, axis: str) -> str:
    small, large = plane.small, plane.large
    parts = [f"Accuracy against {axis}: small-only {small.y:.1%} at {small.x:.1%}, large-only {large.y:.1%}."]
    for policy in plane.upper:
        cost = plane.cost_of_parity(policy)
        reached = f"at {cost:.1%}" if cost is not None else "at no setting"
        parts.append(f"{policy} recovers {PARITY_TEXT} of the gap {reached}.")
    return " ".join(parts)
