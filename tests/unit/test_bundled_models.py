"""The bundled folders, and what the model card states about them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from recipe.export import BUNDLED
from recipe.reference import load_weights
from tests.unit.engines.bundled import MODELS

CARD = (MODELS / "README.md").read_text()


def parameters(folder: Path) -> int:
    return sum(weight.size for weight in load_weights(folder / "model.safetensors").values())


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda folder: folder.name)
def test_the_card_states_the_size_of_each_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    [row] = re.findall(rf"^\| `{folder.name}` \|.*", CARD, re.MULTILINE)
    assert f"| `{config['architectures'][0]}` |" in row
    assert f"| {parameters(folder) / 1e6:.2f} M |" in row
    assert f"| {config['num_hidden_layers']} x {config['hidden_size']} |" in row


def test_all_bundled_folders_are_known() -> None:
    assert {folder.name for folder in BUNDLED} == {path.parent.name for path in MODELS.glob("*/config.json")}
