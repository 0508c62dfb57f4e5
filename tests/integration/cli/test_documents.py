"""The commands of docs/policies.md work as printed, in their order, with the bundled models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from shared.store.database import Database
from stack.policies import read_artefacts, register_bundled
from tests.integration.cli.conftest import Beat, Trim

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "policies.md").read_text()

OWN_PROCESS = ("fit", "train", "calibrate")
"""Commands that set up the logs and signals of their process."""

pytestmark = pytest.mark.servers


def test_every_command_of_the_page_on_policies_succeeds_beside_the_bundled_versions(  # noqa: PLR0917 - pytest passes by name
    trim: Trim, address: str, database: Database, beat: Beat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_bundled(database)
    beat(next(each.models for each in read_artefacts() if each.models.prm.startswith("embedded/prm@")))
    monkeypatch.chdir(tmp_path)
    lines = (ROOT / "models" / "sample.jsonl").read_text().splitlines(keepends=True)
    Path("problems.jsonl").write_text("".join(lines[:25]))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    environment = inherited | {"TRIM_SERVER": address, "PYTHONPATH": f"{ROOT}:{inherited.get('PYTHONPATH', '')}"}
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    commands = [line.removeprefix("$ trim ").split() for block in blocks for line in block.splitlines()]
    assert len(commands) >= 10
    for command in commands:
        if command[1] == "train" and find_spec("torch") is None:
            continue
        if command[1] not in OWN_PROCESS:
            assert trim(*command) or command[1] in {"default", "retire"}
            continue
        program = [sys.executable, "-c", "from cli.app import main; main()"]
        done = subprocess.run([*program, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout
    assert sorted(each.name for each in Path("exported").iterdir()) == ["pomdp@3.json", "pomdp@3.npz"]
