"""Pictures of what policies do at their shown settings: where they escalate, where time goes, and which tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from evaluation.report.drawing import INK, LARGE, PAPER, PRM, SMALL, WIDTH, Look, Picture, draw, percent
from evaluation.report.measures import QUERY_LEVEL, Measured, Measures
from evaluation.study import Trial
from shared.domain.roles import WorkerRole

_LEAST_DECISIONS: Final = 30
"""Decisions that a step index needs to be drawn: with fewer, the rate is noise."""

_ROLES: Final = (
    (WorkerRole.SMALL, "small", SMALL),
    (WorkerRole.PRM, "PRM", PRM),
    (WorkerRole.LARGE, "large", LARGE),
)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a bar."""

    label: str
    colour: str
    hatch: str
    values: Sequence[float]
    """One for each bar."""


_TOKENS: Final = (
    ("small, kept", "small_kept", SMALL, ""),
    ("small, discarded", "small_discarded", SMALL, "////"),
    ("small, wasted", "small_wasted", SMALL, "xxxx"),
    ("small, input", "small_in", SMALL, "||||"),
    ("PRM", "prm_tokens", PRM, ""),
    ("large, output", "large_out", LARGE, ""),
    ("large, wasted", "large_wasted", LARGE, "xxxx"),
    ("large, input", "large_in", LARGE, "||||"),
)
"""Label, column of the ledger, colour and hatching of each kind of tokens."""


def escalations(measures: Measures, looks: Mapping[str, Look]) -> Picture | None:
    """Draw the share of escalated drafts by the index of the step; `None` without decisions."""
    rates = {policy: escalation_rates(each.setting.trials) for policy, each in measures.shown.items()}
    rates = {policy: rate for policy, rate in rates.items() if rate}
    if not rates:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for policy, rate in rates.items():
            look = looks[policy]
            style = "--" if policy in QUERY_LEVEL else "-"
            axes.plot(
                list(rate), list(rate.values()), color=look.colour, marker=look.marker, linestyle=style, label=policy
            )
        axes.set_xlabel("index of the step, from 0")
        axes.set_ylabel("escalated")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        percent(axes, y=True)
        figure.legend(loc="outside lower center", ncols=4)

    return draw(
        "escalations",
        paint,
        caption="Share of the decisions that escalate, by the index of the step, at the shown setting of each policy."
        f" Indexes with fewer than {_LEAST_DECISIONS} decisions are left out.",
        alt="Share of decisions that escalate, by step. "
        + " ".join(f"{policy}: {_ends(rate)}." for policy, rate in rates.items()),
        height=0.5 * WIDTH,
    )


def time_by_role(measures: Measures) -> Picture | None:
    """Draw where the time of a problem goes; `None` without times."""
    rows = {name: each for name, each in _rows(measures).items() if any(trial.spent for trial in each.setting.trials)}
    if not rows:
        return None
    parts = [
        _Part(f"{name}, {label}", colour, hatch, [_seconds(each, role, field) for each in rows.values()])
        for role, name, colour in _ROLES
        for label, field, hatch in (("worked", "worked_s", ""), ("waited", "waited_s", "////"))
    ]
    latencies = {name: _latency(each) for name, each in rows.items()}

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        _stack(axes, list(rows), parts)
        handles: list[Patch | Line2D] = [*_patches(parts)]
        known = [(value, place) for place, value in enumerate(latencies.values()) if value is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True), color=INK, marker="|", markersize=13, markeredgewidth=2, linestyle="none"
            )
            handles.append(
                Line2D(
                    [], [], color=INK, marker="|", markersize=10, markeredgewidth=2, linestyle="none", label="latency"
                )
            )
        axes.set_xlabel("seconds per problem")
        figure.legend(handles=handles, loc="outside lower center", ncols=4)

    return draw(
        "time",
        paint,
        caption="Mean time of a problem by role: waiting for a worker, and work of the engine. Roles work at the same"
        " time where the small model drafts ahead, so the sum may exceed the latency.",
        alt="Mean seconds of a problem. " + _stack_in_words(rows, parts, "{:.2f} s"),
        height=_height(rows),
    )


def tokens_by_kind(measures: Measures) -> Picture:
    """Draw the mean number of tokens of a problem by model and kind."""
    rows = _rows(measures)
    parts = [
        _Part(label, colour, hatch, [each.mean(column) for each in rows.values()])
        for label, column, colour, hatch in _TOKENS
    ]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        _stack(axes, list(rows), parts)
        axes.set_xlabel("tokens per problem")
        figure.legend(handles=_patches(parts), loc="outside lower center", ncols=4)

    return draw(
        "tokens",
        paint,
        caption="Mean number of tokens of a problem, by the model that computed them and by what became of them, at the"
        " shown setting of each policy. Input that a cache held is left out.",
        alt="Mean tokens of a problem. " + _stack_in_words(rows, parts, "{:.0f}"),
        height=_height(rows),
    )


def escalation_rates(trials: Sequence[Trial]) -> dict[int, float]:
    """Return the share of decisions that escalate, by step index, where there are enough decisions."""
    decided: Counter[int] = Counter()
    escalated: Counter[int] = Counter()
    for trial in trials:
        for decision in trial.decisions:
            decided[decision.step] += 1
            escalated[decision.step] += decision.escalates
    return {step: escalated[step] / decided[step] for step in sorted(decided) if decided[step] >= _LEAST_DECISIONS}


def _rows(measures: Measures) -> dict[str, Measured]:
    """Return the bars: the baselines and each policy at its shown setting."""
    return {"small-only": measures.small, **measures.shown, "large-only": measures.large}


def _stack(axes: Axes, rows: Sequence[str], parts: Sequence[_Part]) -> None:
    places = range(len(rows))
    lefts = [0.0] * len(rows)
    for part in parts:
        axes.barh(
            places,
            part.values,
            left=lefts,
            height=0.7,
            color=part.colour,
            edgecolor=PAPER,
            hatch=part.hatch,
            linewidth=0.4,
        )
        lefts = [left + value for left, value in zip(lefts, part.values, strict=True)]
    axes.set_yticks(places, rows)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _patches(parts: Sequence[_Part]) -> list[Patch]:
    """Return the entries of a legend for the parts that occur."""
    return [
        Patch(facecolor=part.colour, edgecolor=PAPER, hatch=part.hatch, linewidth=0.4, label=part.label)
        for part in parts
        if any(part.values)
    ]


def _seconds(each: Measured, role: WorkerRole, field: str) -> float:
    trials = each.setting.trials
    return fmean(getattr(trial.spent[role], field) if role in trial.spent else 0.0 for trial in trials)


def _latency(each: Measured) -> float | None:
    known = [trial.latency_s for trial in each.setting.trials if trial.latency_s is not None]
    return fmean(known) if known else None


def _height(rows: Mapping[str, Measured]) -> float:
    return 1.3 + 0.27 * len(rows)


def _ends(rate: Mapping[int, float]) -> str:
    first, last = min(rate), max(rate)
    return f"{rate[first]:.0%} at step {first}, {rate[last]:.0%} at step {last} (counted from 0)"


def _stack_in_words(rows: Mapping[str, Measured], parts: Sequence[_Part], form: str) -> str:
    return " ".join(
        f"{name}: "
        + ", ".join(f"{part.label} {form.format(part.values[place])}" for part in parts if part.values[place])
        + "."
        for place, name in enumerate(rows)
    )
