"""The page of a report: one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Final

from evaluation.report import tables
from evaluation.report.drawing import WIDTH, Picture
from evaluation.report.measures import PARITY, PARITY_TEXT, Measures
from evaluation.resampling import NO_INTERVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The same picture of each study."""

    heading: str
    pictures: Mapping[str, Picture | None]
    """By the study's name."""
    missing: str
    """Why a study has no such picture."""


_STYLE: Final = """
:root { color-scheme: light dark;
  --ink: #1c1f24; --soft: #5a616c; --grid: #dde1e7; --paper: #ffffff;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #009e73; --series-3: #cc79a7;
  --series-4: #e69f00; --series-5: #56b4e9; --series-6: #882255; --series-7: #7a7a7a; }
@media screen and (prefers-color-scheme: dark) { :root {
  --ink: #e8eaed; --soft: #a3abb8; --grid: #333943; --paper: #15181d;
  --series-0: #3f9fe0; --series-1: #f07a2a; --series-2: #1fbf90; --series-3: #e08fbf;
  --series-4: #f0b030; --series-5: #8fd0f8; --series-6: #d0608f; --series-7: #b0b0b0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 100rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { max-width: 46rem; margin: .5rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; vertical-align: baseline; white-space: nowrap; }
tr > :first-child, thead tr > :nth-child(2), td.text { text-align: left; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
thead th { border-bottom: 1px solid var(--soft); }
tbody tr + tr > * { border-top: 1px solid var(--grid); }
th.study { padding-top: 1rem; font-weight: 600; }
small { color: var(--soft); font-size: .8rem; display: inline-block; min-width: 6.6em; text-align: left; }
.studies { display: grid; gap: 1.5rem 2.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); }
figure { margin: 0; max-width: 50rem; break-inside: avoid; }
figure svg { display: block; height: auto; }
figcaption, .note { color: var(--soft); font-size: .875rem; max-width: 46rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
@media print { body { padding: 0; max-width: none; font-size: 10pt; } h2 { break-after: avoid; }
  table { font-size: 7.5pt; } th, td { padding: .15rem .5rem .15rem 0; } small { font-size: 6.5pt; min-width: 5.6em; }
  .scroll { overflow: visible; } .studies { display: block; } figure { margin-bottom: 1rem; max-width: 16cm; } }
"""

_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<h2>Summary</h2>
<div class="scroll">$summary</div>
<p class="note">$explanation</p>
$sections
<h2>All settings</h2>
$settings
</body>
</html>
""")

_EXPLANATION: Final = (
    "Each policy is shown at one setting: the one with the least share of large tokens among those with a PGR of at"
    f" least {PARITY_TEXT}, or the most accurate one if there is none. Small figures are 95 % bootstrap intervals over"
    " problems, with all seeds of a problem together. Large tokens and true cost are shares of those of large-only."
    " True cost adds up all tokens that a model computed, output and input, times the price of its tokens. PGR is the"
    " share of the gap in accuracy between small-only and large-only that is closed;"
    f" CPT{100 * PARITY:.0f} is the least share of large tokens at which the policy closes {PARITY_TEXT} of it; APGR is"
    f" the mean PGR over all shares of large tokens from 0 to 1. {NO_INTERVAL}"
)


def page(title: str, studies: Mapping[str, Measures], sections: Sequence[Section]) -> str:
    """Return the HTML of a report.

    Args:
        title: Title of the page.
        studies: Studies with their metrics, by name.
        sections: Pictures of the studies.
    """
    settings = "".join(
        f"<h3>{escape(_heading(name, each))}</h3>"
        f'<p class="note">{each.study.problems} problems, {each.study.seeds} seeds each.</p>'
        f'<div class="scroll">{tables.all_settings(each)}</div>'
        for name, each in studies.items()
    )
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        summary=tables.summary(studies),
        explanation=escape(_EXPLANATION),
        sections="\n".join(_section(section, studies) for section in sections),
        settings=settings,
    )


def _section(section: Section, studies: Mapping[str, Measures]) -> str:
    figures = "".join(
        _figure(picture, name, studies[name]) if picture else _absent(section, name, studies[name])
        for name, picture in section.pictures.items()
    )
    return f'<h2>{escape(section.heading)}</h2>\n<div class="studies">{figures}</div>'


def _figure(picture: Picture, name: str, measures: Measures) -> str:
    svg = picture.inline(f"{name}-{picture.name}")
    described = f'<svg role="img" aria-label="{escape(picture.alt)}" style="width: {100 * picture.width / WIDTH:.0f}%" '
    svg = svg.replace("<svg ", described, 1)
    return (
        f"<figure><h3>{escape(_heading(name, measures))}</h3>{svg}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _absent(section: Section, name: str, measures: Measures) -> str:
    return f'<div><h3>{escape(_heading(name, measures))}</h3><p class="note">{escape(section.missing)}</p></div>'


def _heading(name: str, measures: Measures) -> str:
    return f"{name}: {measures.study.title}"
