"""A second forward pass of the exported architectures, in plain numpy: `model.onnx` must compute the same.

It computes one whole sequence, without cache, batch or graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_DTYPES: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


def load_weights(path: Path) -> dict[str, Array]:
    """Read a safetensors file as float32."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data[start:][slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]])
        .astype(np.float32)
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def logits(config: Mapping[str, Any], weights: Mapping[str, Array], ids: Sequence[int]) -> Array:
    """Compute the outputs of one sequence: (tokens, vocabulary) for a language model, (tokens, 2) for a PRM."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads
    theta = (config.get("rope_parameters") or config)["rope_theta"]
    angles = np.outer(np.arange(len(ids)), 1.0 / theta ** (np.arange(0, size, 2) / size))
    rotation = np.exp(1j * angles)[:, None, :]
    unseen = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)

    def linear(x: Array, name: str) -> Array:
        y: Array = x @ weights[f"{name}.weight"].T
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def norm(x: Array, name: str) -> Array:
        root: Array = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config["rms_norm_eps"])
        return x / root * weights[f"{name}.weight"]

    def rotate(x: Array) -> Array:
        # The two halves of a head are the real and imaginary parts of numbers that the position rotates.
        turned = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * rotation
        return np.concatenate([turned.real, turned.imag], axis=-1).astype(np.float32)

    x = weights["model.embed_tokens.weight"][np.asarray(ids)]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        normed = norm(x, f"{at}.input_layernorm")
        q = rotate(linear(normed, f"{at}.self_attn.q_proj").reshape(-1, heads, size))
        k = rotate(linear(normed, f"{at}.self_attn.k_proj").reshape(-1, kv_heads, size))
        v = linear(normed, f"{at}.self_attn.v_proj").reshape(-1, kv_heads, size)
        k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size) + unseen
        share = np.exp(scores - scores.max(axis=-1, keepdims=True))
        share /= share.sum(axis=-1, keepdims=True)
        x = x + linear(np.einsum("hqk,khd->qhd", share, v).reshape(len(ids), -1), f"{at}.self_attn.o_proj")
        normed = norm(x, f"{at}.post_attention_layernorm")
        gate = linear(normed, f"{at}.mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(normed, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    x = norm(x, "model.norm")
    if "score.0.weight" in weights:
        return linear(np.maximum(linear(x, "score.0"), 0), "score.2").astype(np.float32)
    return linear(x, "lm_head" if "lm_head.weight" in weights else "model.embed_tokens").astype(np.float32)
