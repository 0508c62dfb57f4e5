"""Writes the package's metadata beside its code, as an installation would: `metadata.py pyproject.toml FOLDER`.

Images copy the packages that a role imports, and install nothing. One reader needs the metadata all the same: vLLM,
which finds its plug-ins by their entry points.
"""

from __future__ import annotations

import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any


def write(project: dict[str, Any], folder: Path) -> Path:
    """Write the metadata of a project beside its code in a folder, and return where."""
    name = project["name"].replace("-", "_")
    version = runpy.run_path(str(folder / "shared" / "version.py"))["VERSION"]
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {version}\n"
        f"License-Expression: {project['license']}\n",
        encoding="utf-8",
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{entry} = {target}" for entry, target in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return metadata


if __name__ == "__main__":
    write(tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"], Path(sys.argv[2]))
