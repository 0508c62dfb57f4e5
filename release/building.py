"""Builds the source distributions and the wheels of the service and its client, and checks what they hold."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

from packaging.metadata import Metadata
from uv import find_uv_bin

from release.project import CLIENT_FOLDER, CLIENT_PYPROJECT, PYPROJECT, ROOT, ReleaseRefused, tracked_files
from shared.version import VERSION


class Artefacts(NamedTuple):
    """The files of a release."""

    source: Path
    wheel: Path
    client_source: Path
    client_wheel: Path


def build(folder: Path) -> Artefacts:
    """Build all artefacts from a copy of the tracked files.

    The copy keeps old build folders and untracked files out. uv builds each wheel from its source distribution, which
    is thereby known to be complete.
    """
    copy = folder / "source"
    for name in tracked_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    service = _build(copy, folder / "dist")
    client = _build(copy / CLIENT_FOLDER.name, folder / "dist of the client")
    return Artefacts(*service, *client)


def _build(source: Path, built: Path) -> tuple[Path, Path]:
    done = subprocess.run(
        [find_uv_bin(), "build", "--quiet", "--out-dir", built, source], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseRefused(f"The build failed:\n{done.stdout}{done.stderr}")
    [archive], [wheel] = built.glob("*.tar.gz"), built.glob("*.whl")
    return archive, wheel


def check_contents(artefacts: Artefacts) -> str:
    """Check the files and the metadata of the artefacts, and return a summary.

    Raises:
        ReleaseRefused: A file is missing, does not belong there, or the metadata are wrong.
    """
    in_client = f"{CLIENT_FOLDER.name}/"
    tracked = tracked_files()
    services = {name for name in tracked if name.partition("/")[0] in _packages()}
    clients = {name.removeprefix(in_client) for name in tracked if name.startswith(f"{in_client}trim_client/")}
    service = _check_one(artefacts.wheel, artefacts.source, services, PYPROJECT)
    client = _check_one(artefacts.client_wheel, artefacts.client_source, clients, CLIENT_PYPROJECT)
    return f"{service}; of the client, {client}"


def _check_one(built: Path, archive: Path, expected: AbstractSet[str], pyproject: Mapping[str, Any]) -> str:
    with ZipFile(built) as opened:
        wheel = {name for name in opened.namelist() if ".dist-info/" not in name}
        [name] = (each for each in opened.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = opened.read(name).decode()
    with tarfile.open(archive) as tar:
        source = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    if faults := [*file_faults(wheel, source, expected), *metadata_faults(metadata, pyproject)]:
        raise ReleaseRefused("\n".join(f"{built.name}: {fault}" for fault in faults))
    return f"{len(wheel)} files in the wheel, {len(source)} in the source distribution"


def file_faults(wheel: AbstractSet[str], source: AbstractSet[str], expected: AbstractSet[str]) -> Iterator[str]:
    """Describe how the files of wheel and source distribution differ from the tracked files of the packages."""
    yield from (f"The wheel lacks {name}." for name in sorted(expected - wheel))
    yield from (f"The wheel holds {name}, which does not belong there." for name in sorted(wheel - expected))
    yield from (f"The source distribution lacks {name}." for name in sorted(expected - source))


def metadata_faults(text: str, pyproject: Mapping[str, Any] = PYPROJECT) -> Iterator[str]:
    """Describe what is wrong with the metadata of a wheel, by the rules of PyPI and by its pyproject.toml."""
    project = pyproject["project"]
    metadata = Metadata.from_email(text, validate=True)
    stated = (
        ("version", str(metadata.version), VERSION),
        ("licence", metadata.license_expression, project["license"]),
        ("extras", sorted(metadata.provides_extra or ()), sorted(project.get("optional-dependencies", {}))),
        ("format of the description", metadata.description_content_type, "text/markdown"),
    )
    yield from (f"Metadata: {what} is {found}, not {right}." for what, found, right in stated if found != right)
    if not HeaderParser().parsestr(text).get_payload():
        yield "Metadata: the description is empty."


def _packages() -> AbstractSet[str]:
    patterns: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    return {pattern.rstrip("*") for pattern in patterns}
