"""Software bills of materials in the form of CycloneDX: one for each lock file of the service."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from release.licences import Row
from release.locks import DEVELOPMENT, Pin, lock_files, read_lock
from release.project import NAME, PYPROJECT, ROOT, ReleaseRefused
from shared.version import VERSION

LICENCE: str = PYPROJECT["project"]["license"]
SCHEMA = SchemaVersion.V1_6
EMBEDDED_ENGINE = "onnxruntime"
"""The library that runs the bundled models: images without it hold none of them."""


def write_sboms(folder: Path, licences: Mapping[str, Row]) -> list[Path]:
    """Write the bill of materials of each lock file whose libraries run in the service.

    Args:
        folder: Folder to write to.
        licences: Licence of each library, from docs/licences.md.

    Raises:
        ReleaseRefused: A bill does not conform to the schema.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for lock in lock_files():
        if lock.stem != DEVELOPMENT:
            text = make_outputter(bill(read_lock(lock), licences), OutputFormat.JSON, SCHEMA).output_as_string(indent=2)
            if fault := JsonStrictValidator(SCHEMA).validate_str(text):
                raise ReleaseRefused(f"The bill of materials of {lock.name} does not conform to CycloneDX: {fault}")
            written.append(folder / f"{NAME}-{VERSION}-{lock.stem}.cdx.json")
            written[-1].write_text(text, encoding="utf-8")
    return written


def bill(pins: list[Pin], licences: Mapping[str, Row]) -> Bom:
    """List the service, the libraries of a lock file with their dependencies, and the bundled models where they run."""
    root = Component(
        name=NAME,
        version=VERSION,
        type=ComponentType.APPLICATION,
        bom_ref=NAME,
        licenses=[LicenseFactory().make_from_string(LICENCE)],
        purl=PackageURL("pypi", name=NAME, version=VERSION),
    )
    models = list(_models()) if any(pin.name == EMBEDDED_ENGINE for pin in pins) else []
    libraries = {pin: _library(pin, licences[pin.name].licence) for pin in pins}
    bom = Bom(components=[*models, *libraries.values()])
    bom.metadata.component = root
    of_name: dict[str, list[Component]] = {NAME: [root]}
    for pin, library in libraries.items():
        of_name.setdefault(pin.name, []).append(library)
    bom.register_dependency(root, models)
    for pin, library in libraries.items():
        for user in (each for name in pin.required_by for each in of_name[name]):
            bom.register_dependency(user, [library])
    return bom


def _library(pin: Pin, licence: str) -> Component:
    return Component(
        name=pin.name,
        version=pin.version,
        bom_ref=f"{pin.name}=={pin.version}{' ; ' if pin.marker else ''}{pin.marker}",
        licenses=[LicenseFactory().make_from_string(licence)],
        purl=PackageURL("pypi", name=pin.name, version=pin.version),
        # A version has a file for each platform. The hashes of all of them are in the lock file.
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(f"https://pypi.org/project/{pin.name}/{pin.version}/#files"),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in pin.hashes],
            )
        ],
        properties=[Property(name="environment_marker", value=pin.marker)] if pin.marker else [],
    )


def _models() -> Iterator[Component]:
    for weights in sorted((ROOT / "models").glob("*/model.safetensors")):
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        yield Component(
            name=f"{NAME}/{weights.parent.name}",
            version=VERSION,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"model/{weights.parent.name}",
            licenses=[LicenseFactory().make_from_string(LICENCE)],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        )
