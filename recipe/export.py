"""Writes the `model.onnx` of a model folder: `python -m recipe.export [FOLDER ...]`, by default of the bundled models.

The graph holds no weights. Its initializers are external data that point into `model.safetensors` (bfloat16, cast to
float32 once, when ONNX Runtime loads it), so all engines read the same bytes and nothing is stored twice. The graph
holds the digest of the weights, because its offsets are valid for this file only.

The graph computes a block of new tokens for a batch of sequences, given their earlier keys and values:

==============  ==================  ==================================================================================
input           shape               meaning
==============  ==================  ==================================================================================
input_ids       (B, T)              new tokens, padded on the right
past_length     (B,)                number of valid rows of the past, and position of the first new token
rows            (N,)                rows of the flattened (B*T) block to compute outputs for
past_k.i/v.i    (B, H, P, D)        keys (after rotation) and values of layer i, valid rows first
==============  ==================  ==================================================================================

It returns `logits` (N, outputs) and `new_kv` (layers, 2, B, H, T, D). Past and new keys are never concatenated, only
their scores, so a decode step does not copy the past.
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

from recipe import reference

MODELS = Path(__file__).resolve().parent.parent / "models"

BUNDLED = tuple(MODELS / name for name in ("small", "large", "prm", "prm-lite"))
TOLERANCE = 1e-3
"""Maximum difference of a logit from the reference."""

_OPSET = 18
_DTYPES = {"BF16": TensorProto.BFLOAT16, "F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
_MASKED = -1e9
"""Added to the score of a masked key; finite, so that a row without a past does not become NaN."""


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
            ValueError: It describes an architecture that the graph does not support.
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
    """Collects nodes and initializers. Each method adds what its name says and returns the name of the result."""

    def __init__(self, weights: Path) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self._tensors: dict[str, Any] = json.loads(file.read(size))
        self._data_start = 8 + size
        self._location = weights.name
        self._known: set[str] = set()

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def halve(self, x: str, *sizes: str, axis: int) -> tuple[str, str]:
        """Split a value in two; the default is two equal sizes."""
        name = f"Split_{len(self.nodes)}"
        names = (f"{name}_0", f"{name}_1")
        attributes: dict[str, Any] = {} if sizes else {"num_outputs": 2}
        self.nodes.append(helper.make_node("Split", [x, *sizes], list(names), axis=axis, **attributes))
        return names

    def constant(self, value: Sequence[int] | NDArray[Any] | float) -> str:
        """Add a small constant: integers as int64, everything else as float32."""
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
        """Apply a dense layer to rows, with its bias if it has one."""
        bias = [self.weight(f"{name}.bias")] if f"{name}.bias" in self._tensors else []
        return self.op("Gemm", x, self.weight(f"{name}.weight"), *bias, transB=1)

    def result(self, name: str, x: str) -> None:
        """Make a value one of the graph's outputs."""
        self.nodes.append(helper.make_node("Identity", [x], [name]))


class _Qwen2(_Graph):
    """The graph of one model. The constructor adds what all layers share; methods add layers and outputs."""

    def __init__(self, shape: Architecture, weights: Path) -> None:
        super().__init__(weights)
        self.shape = shape
        size = self.op("Shape", "input_ids")
        self.batch, self.length = self.halve(size, axis=0)
        self.past_length = self.op("Shape", "past_k.0", start=2, end=3)
        starts = self.op("Unsqueeze", "past_length", self.constant([1]))
        steps = self._range(self.length)
        # Scores are (B, key heads, groups, T, P) and (B, key heads, groups, T, T).
        valid = self.op("Unsqueeze", starts, self.constant([2, 3, 4]))
        self.past_mask = self._mask(self.op("LessOrEqual", valid, self._range(self.past_length)))
        self.new_mask = self._mask(self.op("Less", self.op("Unsqueeze", steps, self.constant([1])), steps))
        positions = self.op("Cast", self.op("Add", starts, steps), to=TensorProto.FLOAT)
        positions = self.op("Unsqueeze", positions, self.constant([1, 3]))
        frequencies = shape.rope_theta ** (-np.arange(0, shape.head_size, 2) / shape.head_size)
        angles = self.op("Mul", positions, self.constant(frequencies))
        self.cosine, self.sine = self.op("Cos", angles), self.op("Sin", angles)

    def _range(self, end: str) -> str:
        return self.op("Range", self.constant(0), self.op("Squeeze", end), self.constant(1))

    def _mask(self, hidden: str) -> str:
        return self.op("Where", hidden, self.constant(_MASKED), self.constant(0.0))

    def _size(self, *parts: str | int) -> str:
        """Build a shape from numbers and names of lengths."""
        names = [part if isinstance(part, str) else self.constant([part]) for part in parts]
        return self.op("Concat", *names, axis=0)

    def embed(self) -> str:
        """Look up the ids: (B*T, hidden), the layout outside attention."""
        ids = self.op("Reshape", "input_ids", self.constant([-1]))
        return self.op("Gather", self.weight("model.embed_tokens.weight"), ids)

    def norm(self, x: str, name: str) -> str:
        """Apply RMSNorm to rows. ONNX Runtime fuses this form into one operation."""
        square = self.op("ReduceMean", self.op("Pow", x, self.constant(2.0)), self.constant([-1]), keepdims=1)
        root = self.op("Sqrt", self.op("Add", square, self.constant(self.shape.epsilon)))
        return self.op("Mul", self.op("Div", x, root), self.weight(f"{name}.weight"))

    def heads(self, x: str, name: str, count: int) -> str:
        """Project rows to heads: (B, heads, T, D)."""
        size = self._size(self.batch, self.length, count, self.shape.head_size)
        return self.op("Transpose", self.op("Reshape", self.linear(x, name), size), perm=[0, 2, 1, 3])

    def rotate(self, x: str) -> str:
        """Rotate each pair of elements of the lower and upper half by the angle of its position."""
        low, high = self.halve(x, axis=-1)
        turned_low = self.op("Sub", self.op("Mul", low, self.cosine), self.op("Mul", high, self.sine))
        turned_high = self.op("Add", self.op("Mul", high, self.cosine), self.op("Mul", low, self.sine))
        return self.op("Concat", turned_low, turned_high, axis=-1)

    def attend(self, q: str, k: str, v: str, layer: int) -> str:
        """Attend to past and new tokens; query heads that share a key head read the same copy."""
        shape = self.shape
        size = self._size(self.batch, shape.kv_heads, shape.heads // shape.kv_heads, self.length, shape.head_size)
        q = self.op("Mul", self.op("Reshape", q, size), self.constant(shape.head_size**-0.5))
        scores = [
            self.op("Add", self.op("MatMul", q, self.op("Transpose", self._grouped(keys), perm=[0, 1, 2, 4, 3])), mask)
            for keys, mask in ((f"past_k.{layer}", self.past_mask), (k, self.new_mask))
        ]
        shares = self.op("Softmax", self.op("Concat", *scores, axis=-1), axis=-1)
        past, new = self.halve(shares, self._size(self.past_length, self.length), axis=-1)
        of_past = self.op("MatMul", past, self._grouped(f"past_v.{layer}"))
        mixed = self.op("Add", of_past, self.op("MatMul", new, self._grouped(v)))
        return self.op("Reshape", self.op("Transpose", mixed, perm=[0, 3, 1, 2, 4]), self.constant([-1, shape.hidden]))

    def _grouped(self, x: str) -> str:
        return self.op("Unsqueeze", x, self.constant([2]))

    def layer(self, x: str, index: int) -> tuple[str, str, str]:
        """Add a layer; return its output, its new keys and its new values."""
        name, shape = f"model.layers.{index}", self.shape
        normed = self.norm(x, f"{name}.input_layernorm")
        q = self.rotate(self.heads(normed, f"{name}.self_attn.q_proj", shape.heads))
        k = self.rotate(self.heads(normed, f"{name}.self_attn.k_proj", shape.kv_heads))
        v = self.heads(normed, f"{name}.self_attn.v_proj", shape.kv_heads)
        x = self.op("Add", x, self.linear(self.attend(q, k, v, index), f"{name}.self_attn.o_proj"))
        normed = self.norm(x, f"{name}.post_attention_layernorm")
        gate = self.linear(normed, f"{name}.mlp.gate_proj")
        gate = self.op("Mul", gate, self.op("Sigmoid", gate))
        up = self.linear(normed, f"{name}.mlp.up_proj")
        return self.op("Add", x, self.linear(self.op("Mul", gate, up), f"{name}.mlp.down_proj")), k, v

    def head(self, x: str) -> str:
        """Compute the logits of the requested rows."""
        x = self.norm(self.op("Gather", x, "rows"), "model.norm")
        if self.shape.is_prm:
            return self.linear(self.op("Relu", self.linear(x, "score.0")), "score.2")
        return self.linear(x, "model.embed_tokens" if self.shape.is_tied else "lm_head")

    def stack(self, new_kv: Sequence[str]) -> str:
        """Stack the keys and values of all layers: (layers, 2, B, key heads, T, D)."""
        shape = self.shape
        size = self._size(shape.layers, 2, self.batch, shape.kv_heads, self.length, shape.head_size)
        return self.op("Reshape", self.op("Concat", *(self._leading(part) for part in new_kv), axis=0), size)

    def _leading(self, x: str) -> str:
        return self.op("Unsqueeze", x, self.constant([0]))


def build(config: Mapping[str, Any], weights: Path) -> onnx.ModelProto:
    """Build the graph of a Qwen2 language model or process reward model over a safetensors file.

    Raises:
        ValueError: The configuration describes an architecture that the graph does not support.
    """
    shape = Architecture.of(config)
    graph = _Qwen2(shape, weights)
    x, new_kv = graph.embed(), []
    for index in range(shape.layers):
        x, k, v = graph.layer(x, index)
        new_kv += [k, v]
    graph.result("logits", graph.head(x))
    graph.result("new_kv", graph.stack(new_kv))

    heads, size = shape.kv_heads, shape.head_size
    inputs: dict[str, list[str | int]] = {"input_ids": ["B", "T"], "past_length": ["B"], "rows": ["N"]}
    past: dict[str, list[str | int]] = {
        f"past_{part}.{index}": ["B", heads, "P", size] for index in range(shape.layers) for part in "kv"
    }
    outputs: dict[str, list[str | int | None]] = {
        "logits": ["N", None],
        "new_kv": [shape.layers, 2, "B", heads, "T", size],
    }
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            config["architectures"][0],
            [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name, dims in inputs.items()]
            + [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in past.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
            initializer=graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
    )
    helper.set_model_props(model, {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()})
    return model


def greatest_difference(folder: Path, *, tokens: int = 48, seed: int = 0) -> float:
    """Compare the exported graph with the reference on random tokens, in one go and in pieces with a cache.

    Two sequences of different lengths run through the graph as one padded batch, which tests the masks too.

    Returns:
        The greatest absolute difference of a logit.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = reference.load_weights(folder / "model.safetensors")
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    layers, kv_heads = config["num_hidden_layers"], config["num_key_value_heads"]
    ids = np.random.default_rng(seed).integers(0, config["vocab_size"], (2, tokens))
    expected = np.stack([reference.logits(config, weights, row) for row in ids])
    greatest = 0.0
    for pieces in ([tokens], [tokens // 2, tokens - tokens // 2 - 2, 1, 1]):
        # The past is wider than necessary, and holds garbage where it is not valid.
        past = np.full(
            (layers, 2, 2, kv_heads, tokens + 3, config["hidden_size"] // config["num_attention_heads"]), 7.0
        )
        past = past.astype(np.float32)
        lengths = np.zeros(2, np.int64)
        for piece in pieces:
            # The second sequence is one token behind after the first piece, and catches up in the last.
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
        ValueError: The model cannot be exported, or the graph and the reference compute different logits.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    onnx.save(build(config, folder / "model.safetensors"), folder / "model.onnx")
    onnx.checker.check_model(folder / "model.onnx")
    difference = greatest_difference(folder)
    if difference > TOLERANCE:
        raise ValueError(f"{folder}: the graph differs from the reference by {difference:.1e}")
    return difference


def main(arguments: Sequence[str]) -> None:
    """Export the given folders, or the bundled ones."""
    for folder in map(Path, arguments) if arguments else BUNDLED:
        difference = export(folder)
        size_kb = (folder / "model.onnx").stat().st_size / 1000
        print(f"{folder}: {size_kb:.0f} kB, greatest difference from the reference {difference:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])
