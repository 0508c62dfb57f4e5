"""Tables of a report, as HTML. Titles and labels come from outside, so all text is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from evaluation.report.measures import PARITY, Measured, Measures
from evaluation.resampling import Statistic

_HEADINGS = ("accuracy", "large tokens", "true cost", "PGR")


def summary(studies: Mapping[str, Measures]) -> str:
    """Return the table of the baselines and of each policy at its shown setting."""
    headings = ("policy", "setting", *_HEADINGS, f"CPT{100 * PARITY:.0f}", "APGR")
    bodies = "".join(_summary_body(name, measures, len(headings)) for name, measures in studies.items())
    return f"<table>{_head(headings)}{bodies}</table>"


def all_settings(measures: Measures) -> str:
    """Return the table of all settings of a study."""
    rows = [
        _row(policy, _setting(each), *_metrics(each))
        for policy in measures.policies
        for each in measures.settings(policy)
    ]
    return f"<table>{_head(('policy', 'setting', *_HEADINGS))}<tbody>{''.join(rows)}</tbody></table>"


def _summary_body(name: str, measures: Measures, columns: int) -> str:
    title = f"{name}: {measures.study.title}"
    rows = [
        _row("small-only", "", *_metrics(measures.small), "", ""),
        *_policy_rows(measures),
        _row("large-only", "", *_metrics(measures.large), "", ""),
    ]
    heading = f'<tr><th class="study" colspan="{columns}" scope="rowgroup">{escape(title)}</th></tr>'
    return f"<tbody>{heading}{''.join(rows)}</tbody>"


def _policy_rows(measures: Measures) -> Iterator[str]:
    for policy, each in measures.shown.items():
        curve = (measures.cost_to_recover(policy), measures.area_recovered(policy))
        yield _row(policy, _setting(each), *_metrics(each), *(_cell(statistic) for statistic in curve))


def _setting(each: Measured) -> str:
    """Return what distinguishes the setting from others of its policy."""
    return each.setting.label.removeprefix(each.setting.policy).strip() or each.setting.label


def _metrics(each: Measured) -> tuple[str, ...]:
    return tuple(_cell(statistic) for statistic in (each.accuracy, each.share, each.cost, each.recovered))


def _cell(statistic: Statistic) -> str:
    """Return a metric with its interval; a dash if it is undefined."""
    if statistic.value is None:
        return "–"
    interval = statistic.interval
    bounds = "" if interval is None else f"{_number(interval.low)} to {_number(interval.high)}"
    return f"{_number(statistic.value)} % <small>{bounds}</small>"


def _number(value: float) -> str:
    return f"{100 * value:.1f}"


def _head(headings: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{escape(each)}</th>' for each in headings)
    return f"<thead><tr>{cells}</tr></thead>"


def _row(policy: str, setting: str, *cells: str) -> str:
    return (
        f'<tr><th scope="row">{escape(policy)}</th><td class="text">{escape(setting)}</td>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )
