from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from recipe import export

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
}


def write_model(folder: Path, config: dict[str, Any]) -> None:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "lm_head.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, size in (("q_proj", hidden), ("k_proj", narrow), ("v_proj", narrow)):
            shapes |= {f"{at}.self_attn.{name}.weight": (size, hidden), f"{at}.self_attn.{name}.bias": (size,)}
        shapes |= {
            f"{at}.self_attn.o_proj.weight": (hidden, hidden),
            f"{at}.mlp.gate_proj.weight": (wide, hidden),
            f"{at}.mlp.up_proj.weight": (wide, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, wide),
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
        }
    rng = np.random.default_rng(1)
    weights = {name: (rng.standard_normal(shape) / 3).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("folder", export.BUNDLED, ids=lambda folder: folder.name)
def test_the_bundled_graphs_compute_what_the_reference_computes(folder: Path) -> None:
    assert export.greatest_difference(folder) < export.TOLERANCE


@pytest.mark.parametrize("folder", export.BUNDLED, ids=lambda folder: folder.name)
def test_the_bundled_graphs_are_what_the_export_writes_today(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    written = onnx.load(folder / "model.onnx", load_external_data=False)
    assert written == export.build(config, folder / "model.safetensors")


def test_key_heads_may_be_shared_and_the_output_layer_may_be_its_own(tmp_path: Path) -> None:
    write_model(tmp_path, CONFIG)
    assert export.export(tmp_path) < export.TOLERANCE


def test_an_exported_graph_holds_no_weights(tmp_path: Path) -> None:
    write_model(tmp_path, CONFIG)
    export.export(tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 40_000


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
    ],
)
def test_an_architecture_that_the_graph_does_not_cover_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_model(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"can(not)? be exported"):
        export.build(CONFIG | change, tmp_path / "model.safetensors")


def test_a_graph_that_computes_something_else_is_found_out(tmp_path: Path) -> None:
    write_model(tmp_path, CONFIG)
    graph = export.build(CONFIG | {"rope_theta": 900.0}, tmp_path / "model.safetensors")
    onnx.save(graph, tmp_path / "model.onnx")
    assert export.greatest_difference(tmp_path) > export.TOLERANCE
