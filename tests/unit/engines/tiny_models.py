"""Tiny models with random weights that write steps of random words, in tokens that their tokenizer chooses as well."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from recipe import reference
from recipe.export import export
from shared.domain.thoughts import CLOSES, OPENS
from tests.unit.engines.tokenizer_kinds import END, THINKING, encode, tokenizer_of

_HIDDEN, _INNER, _LAYERS = 64, 96, 2
_CERTAIN = 8.0

SEEDS = {"gpt2": 2, "qwen": 52, THINKING: 185}
"""A seed for some kinds of tokenizers with which the model soon writes several steps."""

_TRIGGERS = {OPENS: ":", CLOSES: " is"}
"""Tokens after which a model of the kind `thinking` writes a tag, always and nowhere else."""

_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}Problem: {{ m.content }}\n"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
)
_THINKING_TEMPLATE = (
    "{% set is_asked = enable_thinking is defined %}"
    "{% for m in messages %}{% if m.role == 'user' %}Problem: {{ m.content }}\n:"
    "{% if is_asked and not enable_thinking and '!' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if is_asked and enable_thinking and add_generation_prompt %}<think>\n{% endif %}"
)
"""A model that reads it thinks unless it is asked not to, and also then if the question has an exclamation mark."""


def tiny_model(folder: Path, kind: str, *, seed: int, heads: int = 4, has_graph: bool = True) -> Path:
    """Make a model folder.

    Args:
        folder: Where to make it; its name is that of the model.
        kind: Kind of its tokenizer, a byte-level one.
        seed: Seed of its weights.
        heads: Number of its heads of attention; vLLM on a CPU takes no more than 2.
        has_graph: Whether it has a graph for the embedded engine.
    """
    tokenizer = tokenizer_of(kind)
    end = tokenizer.token_to_id(END)
    name = "Llama" if kind == THINKING else "Qwen2"  # vLLM gives models of Qwen their own kind of tokenizer.
    folder.mkdir(parents=True)
    config = {
        "architectures": [f"{name}ForCausalLM"], "model_type": name.lower(), "dtype": "float32",
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": _HIDDEN, "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS, "num_attention_heads": heads, "num_key_value_heads": heads,
        "hidden_act": "silu", "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "max_position_embeddings": 1024,
        "tie_word_embeddings": False, "use_sliding_window": False, "eos_token_id": end, "bos_token_id": None,
        "pad_token_id": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(_THINKING_TEMPLATE if kind == THINKING else _TEMPLATE)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(_weights(kind, np.random.default_rng(seed)), folder / "model.safetensors")
    if has_graph:
        export(folder)
    return folder


def _weights(kind: str, random: np.random.Generator) -> dict[str, Any]:
    """Draw weights. The first two numbers of a token's embedding reach the head unchanged.

    The first one is the same for all tokens, and the second one tells those with a newline, so that a word after a
    newline begins without a space, and every other one with a space.
    """

    def drawn(*shape: int, scale: float) -> Any:
        return (random.standard_normal(shape) * scale / shape[-1] ** 0.5).astype(np.float32)

    vocabulary = tokenizer_of(kind).get_vocab_size()
    embedding, head = drawn(vocabulary, _HIDDEN, scale=4), drawn(vocabulary, _HIDDEN, scale=5)
    texts = [tokenizer_of(kind).decode([index]) for index in range(vocabulary)]
    embedding[:, 0] = _CERTAIN
    embedding[:, 1] = [_CERTAIN if "\n" in text else -_CERTAIN for text in texts]
    head[:, :2] = [_biases(kind, index, text) for index, text in enumerate(texts)]
    reserved = 2
    if kind == THINKING:
        reserved += len(_TRIGGERS)
        embedding[:, 2:reserved] = head[:, 2:reserved] = 0
        for number, (tag, word) in enumerate(_TRIGGERS.items(), start=2):
            ((trigger,), (written,)) = encode(kind, word), encode(kind, tag)
            embedding[trigger, number], head[written, number] = _CERTAIN, 10 * _CERTAIN
    weights = {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
    weights["model.norm.weight"] = np.ones(_HIDDEN, np.float32)
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{at}.{name}.weight"] = np.ones(_HIDDEN, np.float32)
        for name in "qkv":
            weights[f"{at}.self_attn.{name}_proj.weight"] = drawn(_HIDDEN, _HIDDEN, scale=2)
            if kind != THINKING:
                weights[f"{at}.self_attn.{name}_proj.bias"] = np.zeros(_HIDDEN, np.float32)
        weights[f"{at}.self_attn.o_proj.weight"] = drawn(_HIDDEN, _HIDDEN, scale=2)
        weights[f"{at}.mlp.gate_proj.weight"] = drawn(_INNER, _HIDDEN, scale=2)
        weights[f"{at}.mlp.up_proj.weight"] = drawn(_INNER, _HIDDEN, scale=2)
        weights[f"{at}.mlp.down_proj.weight"] = drawn(_HIDDEN, _INNER, scale=2)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"{at}.{name}.weight"][:reserved] = 0
    return weights


def _biases(kind: str, token: int, text: str) -> tuple[float, float]:
    """Return what makes a token likelier after any token, and after one with a newline."""
    if set(text) == {"\n"}:
        return (21.0, 3.0) if len(text) == 1 or kind not in ("gpt2", THINKING) else (-20.0, 0.0)
    if encode(kind, text) != [token] or not text.strip().isalpha():
        return -20.0, 0.0
    return (0.0, -10.0) if text.startswith(" ") else (0.0, 10.0)


def uninterrupted(folder: Path, ids: Sequence[int], count: int) -> list[int]:
    """Return the ids that a model writes in one go, the likeliest each time, computed without any engine."""
    config = json.loads((folder / "config.json").read_text())
    weights = reference.load_weights(folder / "model.safetensors")
    written = [*ids]
    for _ in range(count):
        written.append(int(reference.logits(config, weights, written)[-1].argmax()))
    return written
