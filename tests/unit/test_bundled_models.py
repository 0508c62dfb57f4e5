"""The bundled folders, and what the model card states about them."""

from __future__ import annotations

import json
import re
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from statistics import fmean

import pytest

from recipe.export import BUNDLED
from recipe.problems.drawing import Split, draw
from recipe.reference import load_weights
from shared.domain.demonstration import DIGESTS, has_demonstration
from shared.engines.factory import make_scorer
from shared.settings import Settings
from tests.unit.engines.bundled import MODELS, score

CARD = (MODELS / "README.md").read_text()

SMALLEST_PRM = 500_000
"""Maximum number of parameters of the lite PRM: no more than a fifth of the large model has."""


def parameters(folder: Path) -> int:
    return sum(weight.size for weight in load_weights(folder / "model.safetensors").values())


def test_the_lite_prm_is_a_fifth_of_the_large_model_at_most() -> None:
    assert parameters(MODELS / "prm-lite") <= SMALLEST_PRM < parameters(MODELS / "large") / 5


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda folder: folder.name)
def test_the_card_states_the_size_of_each_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    [row] = re.findall(rf"^\| `{folder.name}` \|.*", CARD, re.MULTILINE)
    assert f"| `{config['architectures'][0]}` |" in row
    assert f"| {parameters(folder) / 1e6:.2f} M |" in row
    assert f"| {config['num_hidden_layers']} x {config['hidden_size']} |" in row


def test_all_bundled_folders_are_known() -> None:
    assert {folder.name for folder in BUNDLED} == {path.parent.name for path in MODELS.glob("*/config.json")}


def test_the_bundled_weights_are_known_as_a_demonstration_in_whichever_folder() -> None:
    digests = {sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:8] for folder in BUNDLED}
    assert digests == DIGESTS
    for digest in digests:
        assert has_demonstration(["vllm/small", f"embedded/copy@{digest}"])
    assert not has_demonstration(["embedded/small@00000000", "embedded/small", f"openai/x@{min(digests)}"])


def test_the_prms_differ_in_size_alone() -> None:
    configs = [json.loads((MODELS / name / "config.json").read_text()) for name in ("prm", "prm-lite")]
    differing = {key for key in configs[0] | configs[1] if configs[0].get(key) != configs[1].get(key)}
    assert differing == {
        "hidden_size", "intermediate_size", "layer_types", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads",
    }  # fmt: skip
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (MODELS / "prm" / file).read_bytes() == (MODELS / "prm-lite" / file).read_bytes()


def test_one_setting_with_a_relative_path_chooses_the_lite_prm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(MODELS.parent)
    monkeypatch.setenv("TRIM_PRM_MODEL", "models/prm-lite")
    right, wrong = [], []
    with closing(make_scorer(Settings())) as prm:
        assert prm.model_id.startswith("embedded/prm-lite@")
        for _, story in zip(range(20), draw(Split.TEST), strict=False):
            right += score(prm, story.steps, newest=len(story.steps), question=story.question).values
            wrong += score(prm, [re.sub(r"so \d", "so 0", story.steps[0])], question=story.question).values
    assert all(0 <= value <= 1 for value in right + wrong)
    assert fmean(wrong) < fmean(right) - 0.3
