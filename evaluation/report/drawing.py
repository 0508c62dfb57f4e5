"""How pictures look, and how they become SVG and PNG: the same bytes from the same study.

Text becomes outlines, so that a picture looks the same in a browser, in a paper and without its font. Each series has
a marker or a hatching besides its colour. Colour-blind people can tell the colours
apart: they are those of Okabe and Ito ("Color Universal Design", 2008) without yellow and black, and two more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

INK: Final = "#1c1f24"
SOFT: Final = "#626975"
GRID: Final = "#dde1e7"
PAPER: Final = "#ffffff"

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#7a7a7a")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "h", "*")
"""One more than colours, so that no pair of both repeats for a long time."""

SMALL, PRM, LARGE = COLOURS[0], COLOURS[2], COLOURS[1]

VARIABLES: Final = {
    INK: "ink",
    SOFT: "soft",
    GRID: "grid",
    PAPER: "paper",
    **{colour: f"series-{place}" for place, colour in enumerate(COLOURS)},
}
"""Name of the page's CSS variable for each colour of a picture."""

WIDTH: Final = 7.0
"""Inches: the width of the text of a paper."""

_STYLE: Final[Any] = {
    # Names of policies and labels are text, also with a dollar sign.
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "trim",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.9,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True, slots=True)
class Look:
    """Colour and marker of a policy."""

    colour: str
    marker: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with what a reader needs to understand it."""

    name: str
    """Part of a file name."""
    caption: str
    alt: str
    """What the picture shows, in words, for those who cannot see it."""
    svg: str
    """On a white background."""
    png: bytes
    width: float
    """Inches."""

    def inline(self, prefix: str) -> str:
        """Return the SVG for a page: with the page's colours, and with ids that begin with a prefix."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"\s*<metadata>.*?</metadata>|\s*<!--.*?-->", "", svg, flags=re.DOTALL)
        svg = re.sub(r' fill="(#[0-9a-f]{6})"', r' style="fill: \1"', svg)
        svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), svg)
        svg = re.sub(r'\b(id="|href="#)', rf"\g<1>{prefix}-", svg).replace("url(#", f"url(#{prefix}-")
        return re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)


def looks(policies: Sequence[str]) -> dict[str, Look]:
    """Return the look of each policy."""
    return {
        policy: Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        for place, policy in enumerate(policies)
    }


def draw(
    name: str, paint: Callable[[Figure], None], *, caption: str, alt: str, height: float, width: float = WIDTH
) -> Picture:
    """Make a picture.

    Args:
        name: Part of a file name.
        paint: Draws on an empty figure.
        caption: What the picture shows, for everyone.
        alt: The same for those who cannot see it, with what can be seen in it.
        height: Inches.
        width: Inches.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        svg, png = BytesIO(), BytesIO()
        # The layout is computed once, and not for each file.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    return Picture(name=name, caption=caption, alt=alt, svg=svg.getvalue().decode(), png=png.getvalue(), width=width)


def percent(axes: Axes, *, x: bool = False, y: bool = False) -> None:
    """Label axes of shares in per cent."""
    for axis, chosen in ((axes.xaxis, x), (axes.yaxis, y)):
        if chosen:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def _variable(colour: str) -> str:
    name = VARIABLES.get(colour)
    return colour if name is None else f"var(--{name})"
