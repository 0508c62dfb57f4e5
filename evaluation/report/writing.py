"""Writes a report: `report.html`, and each picture as SVG and PNG."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from evaluation.report import curves, effort, prm_pictures
from evaluation.report.drawing import Look, Picture, looks
from evaluation.report.measures import Measures
from evaluation.report.page import Section, page
from evaluation.study import Study
from stack.whole_files import write_whole

PAGE = "report.html"

_Draw = Callable[[Measures, Mapping[str, Look]], Picture | None]

_SECTIONS: tuple[tuple[str, _Draw, str], ...] = (
    ("Accuracy against large tokens", curves.against_tokens, "Large-only spent no tokens, so shares are undefined."),
    (
        "Accuracy against true cost",
        curves.against_true_cost,
        "The prices of tokens are not known, or large-only cost nothing.",
    ),
    (
        "PRM scores",
        lambda measures, _: prm_pictures.histogram(measures),
        "The study has no steps with known labels.",
    ),
    (
        "Calibration of the PRM",
        lambda measures, _: prm_pictures.reliability_diagram(measures),
        "The study has no steps with known labels.",
    ),
    ("Escalations by step", effort.escalations, "The study has too few decisions."),
    (
        "Where time goes",
        lambda measures, _: effort.time_by_role(measures),
        "The study has no times, as those of a simulation.",
    ),
    ("Tokens by kind", lambda measures, _: effort.tokens_by_kind(measures), ""),
)
"""Heading, picture, and why it may be missing."""


def write_report(studies: Mapping[str, Study], folder: Path, *, title: str) -> Path:
    """Write a report of one or more studies.

    The same studies give the same bytes. Policies look the same in all studies.

    Args:
        studies: Studies by name, such as `main`: lower-case letters, digits and hyphens, because file names begin so.
        folder: Folder for the page and the pictures; it is made if it does not exist.
        title: Title of the page.

    Returns:
        Path of the page.

    Raises:
        CannotWrite: A file cannot be written.
        ValueError: There is no study, or a name has other characters.
    """
    if not studies or not all(re.fullmatch("[a-z0-9-]+", name) for name in studies):
        raise ValueError("a report has studies with names of lower-case letters, digits and hyphens")
    measured = {name: Measures(study) for name, study in studies.items()}
    look = looks(list(dict.fromkeys(policy for each in measured.values() for policy in each.policies)))
    sections = [
        Section(heading=heading, pictures={name: draw(each, look) for name, each in measured.items()}, missing=missing)
        for heading, draw, missing in _SECTIONS
    ]
    for section in sections:
        for name, picture in section.pictures.items():
            if picture is not None:
                write_whole(folder / f"{name}-{picture.name}.svg", picture.svg.encode())
                write_whole(folder / f"{name}-{picture.name}.png", picture.png)
    path = folder / PAGE
    write_whole(path, page(title, measured, sections).encode())
    return path
