"""Builds the source distribution and the wheel, and checks what they hold."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from packaging.metadata import Metadata
from uv import find_uv_bin

from release.project import EXTRAS, PYPROJECT, ROOT, ReleaseRefused, tracked_files
from shared.version import VERSION


class Artefacts(NamedTuple):
    """The files of a release."""

    source: Path
    wheel: Path


def build(folder: Path) -> Artefacts:
    """Build both artefacts from a copy of the tracked files.

    The copy keeps old build folders and untracked files out. uv builds the wheel from the source distribution, which
    is thereby known to be complete.
    """
    copy = folder / "source"
    for name in tracked_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    built = folder / "dist"
    done = subprocess.run(
        [find_uv_bin(), "build", "--quiet", "--out-dir", built, copy], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseRefused(f"The build failed:\n{done.stdout}{done.stderr}")
    [source], [wheel] = built.glob("*.tar.gz"), built.glob("*.whl")
    return Artefacts(source, wheel)


def check_contents(artefacts: Artefacts) -> str:
    """Check the files and the metadata of the artefacts, and return a summary.

    Raises:
        ReleaseRefused: A file is missing, does not belong there, or the metadata are wrong.
    """
    with ZipFile(artefacts.wheel) as archive:
        wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
        [name] = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    with tarfile.open(artefacts.source) as tar:
        source = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    expected = {name for name in tracked_files() if name.partition("/")[0] in _packages()}
    if faults := [*file_faults(wheel, source, expected), *metadata_faults(metadata)]:
        raise ReleaseRefused("\n".join(faults))
    return f"{len(wheel)} files in the wheel, {len(source)} in the source distribution"


def file_faults(wheel: AbstractSet[str], source: AbstractSet[str], expected: AbstractSet[str]) -> Iterator[str]:
    """Describe how the files of wheel and source distribution differ from the tracked files of the packages."""
    yield from (f"The wheel lacks {name}." for name in sorted(expected - wheel))
    yield from (f"The wheel holds {name}, which does not belong there." for name in sorted(wheel - expected))
    yield from (f"The source distribution lacks {name}." for name in sorted(expected - source))


def metadata_faults(text: str) -> Iterator[str]:
    """Describe what is wrong with the metadata of a wheel, by the rules of PyPI and by pyproject.toml."""
    metadata = Metadata.from_email(text, validate=True)
    stated = (
        ("version", str(metadata.version), VERSION),
        ("licence", metadata.license_expression, PYPROJECT["project"]["license"]),
        ("extras", sorted(metadata.provides_extra or ()), sorted(EXTRAS)),
        ("format of the description", metadata.description_content_type, "text/markdown"),
    )
    yield from (f"Metadata: {what} is {found}, not {right}." for what, found, right in stated if found != right)
    if not HeaderParser().parsestr(text).get_payload():
        yield "Metadata: the description is empty."


def _packages() -> AbstractSet[str]:
    patterns: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    return {pattern.rstrip("*") for pattern in patterns}
