"""Loads a model folder: tokenizer, configuration, and the graph that computes the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shared.engines.embedded.token_bytes import token_bytes
from shared.engines.port import InputTooLong, ModelUnusable

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_FILES = ("config.json", "tokenizer.json", "model.safetensors", "model.onnx")


class Model:
    """A loaded model. Calls of `compute` must not overlap; other methods may be called from any thread.

    Raises:
        ModelUnusable: The folder's files are missing or damaged, do not belong together, or belong to another kind of
            model.
    """

    def __init__(self, folder: Path, *, setting: str, architecture: str, threads: int) -> None:
        """Load a folder.

        Args:
            folder: The model folder.
            setting: Name of the setting that chose the folder, for error messages.
            architecture: Architecture that its `config.json` must name.
            threads: Number of cores that one run of the graph may use.
        """
        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise ModelUnusable(
                f"The model folder {folder} lacks {', '.join(missing)}; restore it, or change {setting}."
                if folder.is_dir()
                else f"The folder {folder} does not exist; change {setting}, or set TRIM_ENGINE to another engine."
            )
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            is_right = config["architectures"] == [architecture]
            if is_right:
                self._load(folder, config, threads)
        except ModelUnusable:
            raise
        except Exception as error:  # The runtime and the tokenizer raise many kinds, among them bare Exceptions.
            raise ModelUnusable(
                f"A file of the model folder {folder} is damaged; restore it, or change {setting}."
            ) from error
        if not is_right:
            raise ModelUnusable(f"The model in {folder} is not a {architecture}; set {setting} to one that is.")
        self.runs = 0
        """Number of times that the graph was run."""

    def _load(self, folder: Path, config: Mapping[str, Any], threads: int) -> None:
        self.max_tokens: int = config["max_position_embeddings"]
        self.end_ids = _end_ids(config, folder / "generation_config.json")
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # The file may ask for truncation and padding, but engines never truncate.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # Text that spells a special token stays text, because questions come from strangers and steps from models.
        self.tokenizer.encode_special_tokens = True
        self.token_bytes = token_bytes(self.tokenizer, config["vocab_size"])

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Shapes change at every run, so a remembered memory plan never fits. Idle threads must not spin on a core that
        # another engine on this machine could use.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        if self._session.get_modelmeta().custom_metadata_map.get("weights_sha256") != digest:
            raise ModelUnusable(
                f"The model.onnx in {folder} was not made from its model.safetensors; restore both, or run"
                f" `python -m recipe.export {folder}`."
            )
        self.model_id = f"embedded/{folder.name}@{digest[:8]}"
        self.layers = sum(entry.name.startswith("past_k.") for entry in self._session.get_inputs())
        _, self.kv_heads, _, self.head_size = self._session.get_inputs()[-1].shape

    def encode(self, text: str) -> list[int]:
        """Encode text; text that spells a special token gives the ids of its letters."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def refuse_past(self, limit: int, ids: Sequence[int]) -> None:
        """Raise `InputTooLong` if there are more ids than the limit."""
        if len(ids) > limit:
            raise InputTooLong(
                f"Question and steps are {len(ids)} tokens long, but {self.model_id} takes {limit} at most; submit a"
                " shorter question or lower max_steps."
            )

    def compute(self, *, ids: Ids, past_length: Ids, rows: Ids, past: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Compute a block of new tokens.

        Args:
            ids: (B, T), padded on the right.
            past_length: (B,), number of valid rows of the past.
            rows: (N,), rows of the flattened block whose outputs are returned.
            past: Keys and values of each layer in turn, each (B, heads, P, head size).

        Returns:
            Logits (N, outputs), and the new keys and values (layers, 2, B, heads, T, head size).
        """
        self.runs += 1
        feed: dict[str, Ids | Floats] = {"input_ids": ids, "past_length": past_length, "rows": rows}
        for index, part in enumerate(past):
            feed[f"past_{'kv'[index % 2]}.{index // 2}"] = part
        logits, new_kv = self._session.run(("logits", "new_kv"), feed)
        return logits, new_kv


def _end_ids(config: Mapping[str, Any], generation: Path) -> frozenset[int]:
    """Read the ids with which the model ends by itself; the generation settings override the model's."""
    settings = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    ids = settings.get("eos_token_id", config.get("eos_token_id"))
    return frozenset(ids if isinstance(ids, list) else [ids])
