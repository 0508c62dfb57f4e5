"""The forward pass of Qwen2 in plain PyTorch. Weights are a dictionary with the names of the Hugging Face file.

Weights are float32; files, and the computation where the processor supports it, use bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]

ROPE_THETA = 10_000.0
EPSILON = 1e-6
MAX_TOKENS = 1024

INITIAL = 0.02
"""Standard deviation of the weights of a new model."""

COMPUTED = torch.bfloat16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else torch.float32
"""Type of the computation. Without instructions for bfloat16, it takes ten times as long as float32."""

HELPERS = "helper."
"""Prefix of the names of weights that only training uses."""

_LAYER = "model.layers."
"""Prefix of the names of the layers' weights; the index of the layer follows."""

_MASKED = -1e4
_LOOKING = 7.0
"""Size of the biases of heads that look back; at this size their attention is nearly certain from the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Dimensions of a model. Heads are 32 wide, because vLLM's attention on a CPU refuses narrower ones."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    wide: int


def fresh_weights(shape: Shape, seed: int) -> Weights:
    """Draw the weights of a language model, its output tied to its embedding."""
    weights = {
        "model.embed_tokens.weight": _normal((shape.vocabulary, shape.hidden), seed, "embed"),
        "model.norm.weight": torch.ones(shape.hidden),
    }
    for layer in range(shape.layers):
        weights |= fresh_layer(shape, layer, seed)
    return weights


def fresh_layer(shape: Shape, layer: int, seed: int) -> Weights:
    """Draw the weights of one layer of a model that is trained from scratch."""
    at, hidden, wide = f"{_LAYER}{layer}", shape.hidden, shape.wide
    weights: Weights = {}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        weights[f"{at}.self_attn.{name}.weight"] = _normal((hidden, hidden), seed, f"{at}.{name}")
    for name in ("q_proj", "k_proj", "v_proj"):
        weights[f"{at}.self_attn.{name}.bias"] = torch.zeros(hidden)
    for name, size in (("gate_proj", (wide, hidden)), ("up_proj", (wide, hidden)), ("down_proj", (hidden, wide))):
        weights[f"{at}.mlp.{name}.weight"] = _normal(size, seed, f"{at}.{name}")
    for name in ("input_layernorm", "post_attention_layernorm"):
        weights[f"{at}.{name}.weight"] = torch.ones(hidden)
    return weights


def comparing_layer(shape: Shape, layer: int, seed: int) -> Weights:
    """Draw the weights of a layer on top of trained ones.

    The output of trained layers is large, so weights as small as those of a new model would have no effect. Half of the
    heads start by looking one token back, where the token was predicted.
    """
    at, size = f"{_LAYER}{layer}", shape.hidden // shape.heads
    weights = {
        name: weight if weight.dim() == 1 else weight * (weight.shape[1] ** -0.5 / INITIAL)
        for name, weight in fresh_layer(shape, layer, seed).items()
    }
    looking = shape.heads // 2 * size
    angles = 1 / ROPE_THETA ** (torch.arange(0, size, 2) / size)
    # Constant queries and keys, rotated by their positions, match best at a distance of one.
    query = torch.cat([torch.ones_like(angles), torch.zeros_like(angles)])
    key = torch.cat([angles.cos(), angles.sin()])
    for part, bias in (("q_proj", query), ("k_proj", key)):
        weights[f"{at}.self_attn.{part}.weight"][:looking] *= 0.1
        weights[f"{at}.self_attn.{part}.bias"][:looking] = _LOOKING * bias.repeat(shape.heads // 2)
    return weights


def fresh_score(shape: Shape, seed: int) -> Weights:
    """Draw the weights of a PRM's head."""
    return {
        "score.0.weight": _normal((shape.hidden, shape.hidden), seed, "score.0"),
        "score.0.bias": torch.zeros(shape.hidden),
        "score.2.weight": _normal((2, shape.hidden), seed, "score.2"),
        "score.2.bias": torch.zeros(2),
    }


def fresh_identity(shape: Shape, seed: int) -> Weights:
    """Draw the weights of a helper: a linear layer that identifies the token at a position."""
    return {
        f"{HELPERS}identity.weight": _normal((shape.vocabulary, shape.hidden), seed, "identity"),
        f"{HELPERS}identity.bias": torch.zeros(shape.vocabulary),
    }


def fresh_surprise(shape: Shape, seed: int) -> Weights:
    """Draw the weights of a helper: a linear layer that predicts whether a token was expected."""
    return {
        f"{HELPERS}norm.weight": torch.ones(shape.hidden),
        f"{HELPERS}surprise.weight": _normal((2, shape.hidden), seed, "surprise"),
        f"{HELPERS}surprise.bias": torch.zeros(2),
    }


def without_helpers(weights: Mapping[str, Tensor]) -> Weights:
    """Return the weights without helpers, which only training uses."""
    return {name: weight for name, weight in weights.items() if not name.startswith(HELPERS)}


def lowest_layers(weights: Mapping[str, Tensor], layers: int) -> Weights:
    """Return the weights without those of the layers above the first `layers` ones."""
    kept = tuple(f"{_LAYER}{layer}." for layer in range(layers))
    return {name: weight for name, weight in weights.items() if not name.startswith(_LAYER) or name.startswith(kept)}


def narrowed(weights: Mapping[str, Tensor], wide: int) -> Weights:
    """Return the weights with the first `wide` units of the inner part of each layer."""

    def cut(name: str, weight: Tensor) -> Tensor:
        if name.endswith(("mlp.gate_proj.weight", "mlp.up_proj.weight")):
            return weight[:wide]
        return weight[:, :wide] if name.endswith("mlp.down_proj.weight") else weight

    return {name: cut(name, weight) for name, weight in weights.items()}


def _normal(size: tuple[int, ...], seed: int, name: str) -> Tensor:
    """Draw a matrix that depends on seed and name, but not on the order of drawing."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + sum(name.encode()) * 101 + len(name))
    return torch.randn(size, generator=generator) * INITIAL


def half(weights: Mapping[str, Tensor]) -> Weights:
    """Round weights to bfloat16, as files store them, in the type of the computation; gradients pass."""
    return {name: weight.to(torch.bfloat16).to(COMPUTED) for name, weight in weights.items()}


def hidden_states(shape: Shape, weights: Mapping[str, Tensor], ids: Tensor) -> list[Tensor]:
    """Compute the hidden states of all layers.

    Args:
        shape: Shape of the model.
        weights: Weights, in the type of the computation.
        ids: (B, T), padded on the right.

    Returns:
        Embedding and output of each layer, (B, T, hidden) each, not normed.
    """
    embedded = weights["model.embed_tokens.weight"][ids]
    return [embedded, *through(shape, weights, embedded, range(shape.layers))]


def through(shape: Shape, weights: Mapping[str, Tensor], x: Tensor, layers: Iterable[int]) -> list[Tensor]:
    """Compute the outputs of some layers.

    Args:
        shape: Shape of the model.
        weights: Weights, in the type of the computation.
        x: Output of the layer before, (B, T, hidden), padded on the right.
        layers: Indices of the layers, in order.
    """
    batch, length, _ = x.shape
    size = shape.hidden // shape.heads
    angles = torch.outer(torch.arange(length), 1 / ROPE_THETA ** (torch.arange(0, size, 2) / size))
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    unseen = torch.full((length, length), _MASKED).triu(1).to(x.dtype)

    def rotate(heads: Tensor) -> Tensor:
        low, high = heads.chunk(2, -1)
        return torch.cat([low * cosine - high * sine, high * cosine + low * sine], -1)

    states = []
    for layer in layers:
        at = f"{_LAYER}{layer}"
        normed = norm(x, weights[f"{at}.input_layernorm.weight"])
        fused = [
            torch.cat([weights[f"{at}.self_attn.{name}_proj.{part}"] for name in "qkv"]) for part in ("weight", "bias")
        ]
        heads = functional.linear(normed, *fused).view(batch, length, 3, shape.heads, size).permute(2, 0, 3, 1, 4)
        # Written out, because at these sizes the backward pass of PyTorch's fused attention takes longer.
        scores = (rotate(heads[0]) * size**-0.5) @ rotate(heads[1]).transpose(-1, -2) + unseen
        mixed = (scores.softmax(-1) @ heads[2]).transpose(1, 2).reshape(batch, length, shape.hidden)
        x = x + functional.linear(mixed, weights[f"{at}.self_attn.o_proj.weight"])
        normed = norm(x, weights[f"{at}.post_attention_layernorm.weight"])
        gate = functional.silu(functional.linear(normed, weights[f"{at}.mlp.gate_proj.weight"]))
        up = functional.linear(normed, weights[f"{at}.mlp.up_proj.weight"])
        x = x + functional.linear(gate * up, weights[f"{at}.mlp.down_proj.weight"])
        states.append(x)
    return states


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """Apply RMSNorm."""
    return functional.rms_norm(x, weight.shape, weight, EPSILON)


def score(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Apply a PRM's head to rows of the last layer; return the logits of wrong and right."""
    x = functional.linear(norm(x, weights["model.norm.weight"]), weights["score.0.weight"], weights["score.0.bias"])
    return functional.linear(x.relu(), weights["score.2.weight"], weights["score.2.bias"])
