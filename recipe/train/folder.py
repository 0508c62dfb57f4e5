"""Writes and reads model folders: Hugging Face format for transformers and vLLM, a graph for ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from recipe import export
from recipe.train.network import EPSILON, MAX_TOKENS, ROPE_THETA, Shape, Weights
from recipe.train.tokenizer import END, END_ID, END_OF_TEXT, PAD_ID
from shared.domain.text import STEP_TAG

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}Problem: {{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
)


def write(folder: Path, shape: Shape, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> float:
    """Write a folder with weights in bfloat16. Weights with a head (`score.0.weight`) are a PRM.

    Returns:
        The greatest difference of a logit between the graph and the reference.

    Raises:
        ValueError: The graph and the reference compute different logits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_prm = "score.0.weight" in weights
    stored = {name: weights[name].detach().to(torch.bfloat16).contiguous() for name in sorted(weights)}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    _write_json(folder / "config.json", _config(shape, is_prm=is_prm))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "TokenizersBackend",
            "eos_token": END,
            "pad_token": END_OF_TEXT,
            "extra_special_tokens": [STEP_TAG],
            "model_max_length": MAX_TOKENS,
            "clean_up_tokenization_spaces": False,
        },
    )
    if not is_prm:
        _write_json(folder / "generation_config.json", {"eos_token_id": END_ID, "pad_token_id": PAD_ID})
    return export.export(folder)


def read(folder: Path) -> Weights:
    """Read the weights of a folder as float32."""
    return {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}


def _config(shape: Shape, *, is_prm: bool) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForProcessRewardModel" if is_prm else "Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "bfloat16",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.wide,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "hidden_act": "silu",
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
        "max_position_embeddings": MAX_TOKENS,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "layer_types": ["full_attention"] * shape.layers,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **({"num_labels": 2} if is_prm else {}),
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
