"""Writes the `model.onnx` of a model folder: `python -m models.export [FOLDER ...]`, the bundled models by default.

The graph holds no weights. Its initializers are external data that point into `model.safetensors` as it lies there
(bfloat16, cast to float32 once, when ONNX Runtime loads it), so every engine reads the same bytes and nothing is
stored twice. The digest of the weights is kept in the graph: offsets into another file would be nonsense.

The graph computes a block of new tokens for a batch of sequences whose earlier keys and values are given:

==============  ==================  ==================================================================================
input           shape               meaning
==============  ==================  ==================================================================================
input_ids       (B, T)              new tokens, padded on the right
past_length     (B,)                how many rows of the past are valid, which is also the first new token's position
rows            (N,)                the rows of the flattened (B*T) block that outputs are wanted for
past_k.i/v.i    (B, H, P, D)        keys (after rotation) and values of layer i, valid rows first
==============  ==================  ==================================================================================

It gives `logits` (N, outputs) and `new_kv` (layers, 2, B, H, T, D). Past and new keys are never concatenated, only
their scores are: so a decode step copies nothing of the past.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models import reference

BUNDLED = tuple(Path(__file__).parent / name for name in ("small", "large", "prm"))
TOLERANCE = 1e-3
"""Greatest difference of a logit from the reference that the check lets pass."""

_OPSET = 18
_DTYPES = {"BF16": TensorProto.BFLOAT16, "F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
_MASKED = -1e9
"""Added to the score of a key that must not be seen; finite, so that a row with no past stays a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The numbers of `config.json` that shape the graph."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    rope_theta: float
    epsilon: float
    is_prm: bool
    is_tied: bool

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture:
        """Read a Hugging Face configuration.

        Raises:
            ValueError: It describes something that the graph does not do.
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if config["model_type"] != "qwen2" or config.get("hidden_act") != "silu":
            raise ValueError(f"only qwen2 models with silu can be exported, not {config['model_type']}")
        if rope.get("rope_type", "default") != "default" or config.get("use_sliding_window"):
            raise ValueError("scaled rotary embeddings and sliding windows cannot be exported")
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            rope_theta=float(rope.get("rope_theta") or config["rope_theta"]),
            epsilon=config["rms_norm_eps"],
            is_prm=config["architectures"] == ["Qwen2ForProcessRewardModel"],
            is_tied=config.get("tie_word_embeddings", False),
        )


class _Graph:
    """Collects nodes and initializers; each method adds what it is named after and returns the name of its result."""

    def __init__(self, weights: Path) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self._tensors: dict[str, Any] = json.loads(file.read(size))
        self._data_start = 8 + size
        self._location = weights.name
        self._known: set[str] = set()

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; the result is one name, or a list if several outputs are asked for."""
        names = [f"{kind}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Sequence[int] | NDArray[Any] | float) -> str:
        """Add a small constant: integers as int64, all else as float32."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{array.dtype}_{array.shape}_{array.tobytes().hex()}"
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str) -> str:
        """Add a tensor of the safetensors file, by reference, as float32."""
        if (cast := f"{name}.float32") in self._known:
            return cast
        self._known.add(cast)
        entry = self._tensors[name]
        begin, end = entry["data_offsets"]
        tensor = TensorProto(name=name, dims=entry["shape"], data_type=_DTYPES[entry["dtype"]])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._location), ("offset", self._data_start + begin), ("length", end - begin)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        self.nodes.append(helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT))
        return cast

    def linear(self, x: str, name: str) -> str:
        """Apply a dense layer, with its bias if it has one, to rows."""
        bias = [self.weight(f"{name}.bias")] if f"{name}.bias" in self._tensors else []
        return str(self.op("Gemm", x, self.weight(f"{name}.weight"), *bias, transB=1))

    def norm(self, x: str, name: str, epsilon: float) -> str:
        """Apply RMSNorm to rows."""
        square = self.op("ReduceMean", self.op("Pow", x, self.constant(2.0)), self.constant([-1]), keepdims=1)
        root = self.op("Sqrt", self.op("Add", square, self.constant(epsilon)))
        return str(self.op("Mul", self.op("Div", x, root), self.weight(f"{name}.weight")))


def build(config: Mapping[str, Any], weights: Path) -> onnx.ModelProto:
    """Build the graph of a Qwen2 language model or process reward model over a safetensors file.

    Raises:
        ValueError: The configuration describes something that the graph does not do.
    """
    shape = Architecture.of(config)
    graph = _Graph(weights)
    batch_and_length = graph.op("Shape", "input_ids")
    batch, length = graph.op("Split", batch_and_length, graph.constant([1, 1]), outputs=2, axis=0)
    steps = graph.op("Range", graph.constant(0), graph.op("Squeeze", length), graph.constant(1))
    past_size = graph.op("Shape", "past_k.0", start=2, end=3)
    places = graph.op("Range", graph.constant(0), graph.op("Squeeze", past_size), graph.constant(1))

    def penalty(hidden: str) -> str:
        return str(graph.op("Where", hidden, graph.constant(_MASKED), graph.constant(0.0)))

    starts = graph.op("Unsqueeze", "past_length", graph.constant([1]))
    past_mask = penalty(graph.op("LessOrEqual", graph.op("Unsqueeze", starts, graph.constant([2, 3, 4])), places))
    new_mask = penalty(graph.op("Less", graph.op("Unsqueeze", steps, graph.constant([1])), steps))

    frequencies = shape.rope_theta ** (-np.arange(0, shape.head_size, 2) / shape.head_size)
    positions = graph.op("Cast", graph.op("Add", starts, steps), to=TensorProto.FLOAT)
    angles = graph.op("Mul", graph.op("Unsqueeze", positions, graph.constant([1, 3])), graph.constant(frequencies))
    cosine, sine = graph.op("Cos", angles), graph.op("Sin", angles)

    def heads_of(x: str, heads: int) -> str:
        """(B*T, heads*D) -> (B, heads, T, D)."""
        target = graph.op("Concat", batch, length, graph.constant([heads, shape.head_size]), axis=0)
        return str(graph.op("Transpose", graph.op("Reshape", x, target), perm=[0, 2, 1, 3]))

    def rotate(x: str) -> str:
        """Turn each pair of a lower and an upper half's element by its angle."""
        low, high = graph.op("Split", x, outputs=2, axis=-1, num_outputs=2)
        turned_low = graph.op("Sub", graph.op("Mul", low, cosine), graph.op("Mul", high, sine))
        turned_high = graph.op("Add", graph.op("Mul", high, cosine), graph.op("Mul", low, sine))
        return str(graph.op("Concat", turned_low, turned_high, axis=-1))

    def attend(q: str, k: str, v: str, layer: int) -> str:
        """Attend to past and new tokens; all query heads of a key head share its one copy."""
        groups = shape.heads // shape.kv_heads
        grouped = graph.op("Concat", batch, graph.constant([shape.kv_heads, groups]), length,
                           graph.constant([shape.head_size]), axis=0)  # fmt: skip
        q = graph.op("Mul", graph.op("Reshape", q, grouped), graph.constant(shape.head_size**-0.5))
        pairs = [(f"past_k.{layer}", f"past_v.{layer}", past_mask), (k, v, new_mask)]
        scores, values = [], []
        for keys, some_values, mask in pairs:
            keys, some_values = (graph.op("Unsqueeze", x, graph.constant([2])) for x in (keys, some_values))
            product = graph.op("MatMul", q, graph.op("Transpose", keys, perm=[0, 1, 2, 4, 3]))
            scores.append(graph.op("Add", product, mask))
            values.append(some_values)
        share = graph.op("Softmax", graph.op("Concat", *scores, axis=-1), axis=-1)
        parts = graph.op("Split", share, graph.op("Concat", past_size, length, axis=0), outputs=2, axis=-1)
        mixed = graph.op("Add", *(graph.op("MatMul", part, value) for part, value in zip(parts, values, strict=True)))
        merged = graph.op("Transpose", mixed, perm=[0, 3, 1, 2, 4])
        return str(graph.op("Reshape", merged, graph.constant([-1, shape.hidden])))

    x = graph.op("Gather", graph.weight("model.embed_tokens.weight"), graph.op("Reshape", "input_ids", graph.constant([-1])))
    new_kv = []
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        normed = graph.norm(x, f"{name}.input_layernorm", shape.epsilon)
        q = rotate(heads_of(graph.linear(normed, f"{name}.self_attn.q_proj"), shape.heads))
        k = rotate(heads_of(graph.linear(normed, f"{name}.self_attn.k_proj"), shape.kv_heads))
        v = heads_of(graph.linear(normed, f"{name}.self_attn.v_proj"), shape.kv_heads)
        new_kv += [graph.op("Unsqueeze", part, graph.constant([0])) for part in (k, v)]
        x = graph.op("Add", x, graph.linear(attend(q, k, v, layer), f"{name}.self_attn.o_proj"))
        normed = graph.norm(x, f"{name}.post_attention_layernorm", shape.epsilon)
        gate = graph.linear(normed, f"{name}.mlp.gate_proj")
        gated = graph.op("Mul", graph.op("Mul", gate, graph.op("Sigmoid", gate)), graph.linear(normed, f"{name}.mlp.up_proj"))
        x = graph.op("Add", x, graph.linear(gated, f"{name}.mlp.down_proj"))
    x = graph.norm(graph.op("Gather", x, "rows"), "model.norm", shape.epsilon)
    if shape.is_prm:
        logits = graph.linear(graph.op("Relu", graph.linear(x, "score.0")), "score.2")
    else:
        logits = graph.linear(x, "model.embed_tokens" if shape.is_tied else "lm_head")

    layout = ["layers", 2, "batch", shape.kv_heads, "length", shape.head_size]
    stacked = graph.op("Concat", *new_kv, axis=0)
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    folded = graph.op("Concat", graph.constant([shape.layers, 2]), batch, graph.constant([shape.kv_heads]), length,
                      graph.constant([shape.head_size]), axis=0)  # fmt: skip
    graph.nodes.append(helper.make_node("Reshape", [stacked, folded], ["new_kv"]))
    past = [f"past_{part}.{layer}" for layer in range(shape.layers) for part in "kv"]
    past_layout = ["batch", shape.kv_heads, "past", shape.head_size]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            config["architectures"][0],
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"]),
                helper.make_tensor_value_info("past_length", TensorProto.INT64, ["batch"]),
                helper.make_tensor_value_info("rows", TensorProto.INT64, ["rows"]),
                *(helper.make_tensor_value_info(name, TensorProto.FLOAT, past_layout) for name in past),
            ],
            [
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", None]),
                helper.make_tensor_value_info("new_kv", TensorProto.FLOAT, layout),
            ],
            initializer=graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
    )
    helper.set_model_props(model, {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()})
    return model


def greatest_difference(folder: Path, *, tokens: int = 48, seed: int = 0) -> float:
    """Compare the exported graph with the reference on random tokens, in one go and in pieces with a cache.

    Two sequences of different lengths go through the graph together, padded, so that the masks are compared too.

    Returns:
        The greatest absolute difference of any logit.
    """
    config = json.loads((folder / "config.json").read_text())
    weights = reference.load_weights(folder / "model.safetensors")
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    layers, kv_heads = config["num_hidden_layers"], config["num_key_value_heads"]
    ids = np.random.default_rng(seed).integers(0, config["vocab_size"], (2, tokens))
    expected = np.stack([reference.logits(config, weights, row) for row in ids])
    greatest = 0.0
    for pieces in ([tokens], [tokens // 2, tokens - tokens // 2 - 2, 1, 1]):
        # The past is wider than it need be, and full of nonsense where it is not valid.
        past = np.full((layers, 2, 2, kv_heads, tokens + 3, config["hidden_size"] // config["num_attention_heads"]), 7.0)
        past = past.astype(np.float32)
        lengths = np.zeros(2, np.int64)
        for piece in pieces:
            # The second sequence lags one token behind in the first piece, and catches up in the last.
            lag = 1 if len(pieces) > 1 and piece == pieces[0] else 0
            counts = np.array([piece, piece - lag])
            block = np.zeros((2, piece), np.int64)
            for row, (start, count) in enumerate(zip(lengths, counts, strict=True)):
                block[row, :count] = ids[row, start : start + count]
            valid = [row * piece + column for row in range(2) for column in range(counts[row])]
            feed = {f"past_{part}.{i}": past[i, j] for i in range(layers) for j, part in enumerate("kv")}
            got, new_kv = session.run(None, {"input_ids": block, "past_length": lengths, "rows": valid, **feed})
            wanted = [expected[row, lengths[row] : lengths[row] + counts[row]] for row in range(2)]
            greatest = max(greatest, float(np.abs(got - np.concatenate(wanted)).max()))
            for row in range(2):
                end = lengths[row] + counts[row]
                past[:, :, row, :, lengths[row] : end] = new_kv[:, :, row, :, : counts[row]]
            lengths += counts
    return greatest


def export(folder: Path) -> float:
    """Write the folder's `model.onnx` and check it.

    Returns:
        The greatest difference of a logit from the reference.

    Raises:
        ValueError: The model cannot be exported, or the graph does not compute what the reference computes.
    """
    config = json.loads((folder / "config.json").read_text())
    onnx.save(build(config, folder / "model.safetensors"), folder / "model.onnx")
    onnx.checker.check_model(folder / "model.onnx")
    difference = greatest_difference(folder)
    if difference > TOLERANCE:
        raise ValueError(f"{folder}: the graph differs from the reference by {difference:.1e}")
    return difference


def main(arguments: Sequence[str]) -> None:
    """Export the folders that are named, or the bundled ones."""
    for folder in map(Path, arguments) if arguments else BUNDLED:
        difference = export(folder)
        size_kb = (folder / "model.onnx").stat().st_size / 1000
        print(f"{folder}: {size_kb:.0f} kB, greatest difference from the reference {difference:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])
