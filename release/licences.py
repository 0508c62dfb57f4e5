"""The licences of all locked libraries: `python -m release.licences` updates the table of docs/licences.md.

A library's metadata decide. Where they do not name a licence of the SPDX list, a person reads the library's licence
file and writes the row by hand; such a row stays as it is.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from release.locks import locked_names
from release.project import ROOT, ReleaseRefused

PAGE = ROOT / "docs" / "licences.md"

FOR_DEVELOPMENT = frozenset({"GPL-3.0"})
"""Licences that the page allows for tools of development alone."""

CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""Classifiers that name one licence. "BSD License" does not: it names a family."""

HEAD = "| library | runs in | licence | read from |\n|---|---|---|---|\n"
ALLOWED = re.compile(r"^\| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
ROW = re.compile(r"^\| ([a-z0-9-]+) \| (service|development) \| ([^|]+) \| (metadata|licence file) \|$", re.MULTILINE)


class Row(NamedTuple):
    """One row of the table."""

    runs_in: str
    licence: str
    """Licence as an SPDX expression."""
    read_from: str


def allowed_licences() -> frozenset[str]:
    """Read which licences a library may have: the first column of the page's first table."""
    cells = ALLOWED.findall(PAGE.read_text(encoding="utf-8"))
    return frozenset(re.findall(r"[\w.+-]+", " ".join(cells[1:])))


def read_page() -> dict[str, Row]:
    """Read the table, by library."""
    return {name: Row(*rest) for name, *rest in ROW.findall(PAGE.read_text(encoding="utf-8"))}


def check_licences() -> str:
    """Check that the page is up to date and that every licence is allowed, and return a summary.

    Raises:
        ReleaseRefused: It is not, or one is not.
    """
    page = read_page()
    if page != (right := current(page)):
        changed = ", ".join(sorted(name for name in page.keys() | right.keys() if page.get(name) != right.get(name)))
        raise ReleaseRefused(f"docs/licences.md is not up to date; run python -m release.licences ({changed}).")
    if faults := list(licence_faults(page)):
        raise ReleaseRefused("\n".join(faults))
    return f"{len(page)} libraries, all with a licence that is allowed"


def licence_faults(rows: Mapping[str, Row]) -> Iterator[str]:
    """Name the libraries with a licence that is not allowed."""
    allowed = allowed_licences() | {"AND", "OR"}
    for name, row in rows.items():
        for licence in re.findall(r"[\w.+-]+", row.licence):
            if licence not in allowed or (licence in FOR_DEVELOPMENT and row.runs_in != "development"):
                yield f"The licence {licence} of {name} is not among those that docs/licences.md allows."


def current(page: Mapping[str, Row]) -> dict[str, Row]:
    """Return the rows that the lock files and the installed libraries call for.

    Raises:
        ReleaseRefused: The licence of a library can be read neither from its metadata nor from the page.
    """
    rows, unread = {}, []
    for name, is_in_service in locked_names().items():
        runs_in = "service" if is_in_service else "development"
        if licence := _from_metadata(name):
            rows[name] = Row(runs_in, licence, "metadata")
        elif name in page:  # Read by a person, or the library is not installed on this platform.
            rows[name] = page[name]._replace(runs_in=runs_in)
        else:
            unread.append(f"| {name} | {runs_in} | SPDX expression | licence file |")
    if unread:
        raise ReleaseRefused("\n".join(["Read the licence files, and add these rows to docs/licences.md:", *unread]))
    return rows


def update_page() -> None:
    """Write the table again, with which the page ends."""
    rows = "".join(f"| {name} | {' | '.join(row)} |\n" for name, row in current(read_page()).items())
    PAGE.write_text(PAGE.read_text(encoding="utf-8").partition(HEAD)[0] + HEAD + rows, encoding="utf-8")


def _from_metadata(name: str) -> str:
    """Return the licence that a library's metadata name, or an empty text."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    for field in ("License-Expression", "License"):
        try:
            return canonicalize_license_expression("".join(metadata.get_all(field, [])))
        except InvalidLicenseExpression:
            continue
    named = {CLASSIFIERS.get(each, "") for each in metadata.get_all("Classifier", []) if each.startswith("License ::")}
    return named.pop() if len(named) == 1 else ""


if __name__ == "__main__":
    try:
        update_page()
    except ReleaseRefused as refusal:
        sys.exit(str(refusal))
