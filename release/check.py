"""Checks a release: `python -m release.check`, or `make release-check`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from release.building import Artefacts, build, check_contents
from release.installing import NOT_INSTALLED, run_trials
from release.licences import check_licences, read_page
from release.project import ROOT, ReleaseRefused
from release.sbom import write_sboms
from shared.version import PRODUCT

DIST = ROOT / "dist"


def main() -> None:
    """Build the release, check it, and leave it in dist/ if every check passes."""
    parser = argparse.ArgumentParser(prog="python -m release.check", description="Build a release and check it.")
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="interpreters to install it for")
    pythons: Sequence[str] = parser.parse_args().pythons
    started = time.monotonic()
    # The space in its name is meant: a path may have one.
    with tempfile.TemporaryDirectory(prefix="trim release ") as folder:
        try:
            _check(Path(folder), pythons)
        except ReleaseRefused as refusal:
            sys.exit(f"The release is refused. {refusal}")
    print(f"{PRODUCT} is in dist/; every check passed in {time.monotonic() - started:.0f} s.")


def _check(folder: Path, pythons: Sequence[str]) -> None:
    if subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, check=False).returncode:
        print("Note: the release has changes that are not committed.")
    print(f"Licences: {check_licences()}")
    artefacts = build(folder)
    print(f"Content:  {check_contents(artefacts)}")
    bills = write_sboms(folder / "sbom", read_page())
    print(f"SBOM:     {len(bills)} files, which conform to CycloneDX")
    for number, python in enumerate(pythons):
        _try_out(artefacts, folder / f"python {number}", python)
    for extra, why in NOT_INSTALLED.items():
        print(f"  not installed: {extra} ({why})")
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for path in (*artefacts, *bills):
        shutil.copy(path, DIST)


def _try_out(artefacts: Artefacts, folder: Path, python: str) -> None:
    print(f"Installed with each extra, for {python}:", flush=True)
    folder.mkdir()
    faults = []
    for result in run_trials(artefacts, folder, python=python):
        print(f"  {'FAILED' if result.fault else 'passed'}  {result.extras:<24}{result.seconds:6.1f} s", flush=True)
        if result.fault:
            faults.append(f"[{result.extras}] {result.fault}")
    if faults:
        raise ReleaseRefused("\n".join(faults))


if __name__ == "__main__":
    main()
