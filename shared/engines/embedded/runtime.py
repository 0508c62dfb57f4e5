"""A model folder, loaded: its tokenizer, its configuration and the graph that computes it."""

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

from shared.domain.text import SEPARATOR
from shared.engines.embedded.pieces import pieces_of
from shared.engines.port import InputTooLong, ModelUnusable

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_FILES = ("config.json", "tokenizer.json", "model.safetensors", "model.onnx")


class Model:
    """One model, ready to compute. Calls of `compute` must not overlap; all else may be called from any thread.

    Raises:
        ModelUnusable: The folder's files are missing, damaged, do not belong together, or are those of a model for
            something else.
    """

    def __init__(self, folder: Path, *, setting: str, architecture: str, threads: int) -> None:
        """Load a folder.

        Args:
            folder: The model folder.
            setting: Which setting names it, for messages.
            architecture: What kind of model it must be, as in its `config.json`.
            threads: Cores that one computation may use.
        """
        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise ModelUnusable(
                f"the model folder {folder} lacks {', '.join(missing)}; restore it, or change {setting}"
                if folder.is_dir()
                else f"there is no folder {folder}; change {setting}, or set TRIM_ENGINE to an engine that knows it"
            )
        try:
            config = json.loads((folder / "config.json").read_text())
            is_right = config["architectures"] == [architecture]
            if is_right:
                self._load(folder, config, threads)
        except ModelUnusable:
            raise
        except Exception as error:  # the runtime and the tokenizer raise bare Exceptions of many kinds
            raise ModelUnusable(
                f"the model folder {folder} cannot be loaded, a file is damaged; restore it, or change {setting}"
            ) from error
        if not is_right:
            raise ModelUnusable(f"the model in {folder} is no {architecture}; set {setting} to one that is")
        self.runs = 0
        """How often the graph was run."""

    def _load(self, folder: Path, config: Mapping[str, Any], threads: int) -> None:
        self.max_tokens: int = config["max_position_embeddings"]
        self.end_ids = _end_ids(config, folder / "generation_config.json")
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # What the file says of cutting and padding is not for here: nothing is ever cut in silence.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # Text that spells a special token stays text: questions come from strangers, steps from models.
        self.tokenizer.encode_special_tokens = True
        self.pieces = pieces_of(self.tokenizer, config["vocab_size"])

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Shapes change at every call, so a remembered memory plan never fits; and idle threads must not burn a core
        # that another engine on this machine could use.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        if self._session.get_modelmeta().custom_metadata_map.get("weights_sha256") != digest:
            raise ModelUnusable(
                f"model.safetensors in {folder} is not what model.onnx was made of;"
                f" restore it, or run `python -m recipe.export {folder}`"
            )
        self.model_id = f"embedded/{folder.name}@{digest[:8]}"
        self.layers = sum(entry.name.startswith("past_k.") for entry in self._session.get_inputs())
        _, self.kv_heads, _, self.head_size = self._session.get_inputs()[-1].shape

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids; what looks like a special token gives the ids of its letters."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_question(self, question: str) -> list[int]:
        """Turn a question into the ids that every solution of it begins with."""
        return self.encode(f"Problem: {question}{SEPARATOR}")

    def refuse_past(self, limit: int, ids: Sequence[int]) -> None:
        """Raise `InputTooLong` if there are more ids than the limit."""
        if len(ids) > limit:
            raise InputTooLong(
                f"question and steps are {len(ids)} tokens long, but {self.model_id} takes {limit} at most;"
                " submit a shorter question or lower max_steps"
            )

    def compute(self, *, ids: Ids, past_length: Ids, rows: Ids, past: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Compute a block of new tokens.

        Args:
            ids: (B, T), padded on the right.
            past_length: (B,), how many rows of the past are valid.
            rows: (N,), rows of the flattened block that outputs are wanted for.
            past: Keys and values of each layer in turn, (B, heads, P, head size) each.

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
    """Read the ids at which the model ends by itself; the generation settings go before the model's."""
    settings = json.loads(generation.read_text()) if generation.is_file() else {}
    ids = settings.get("eos_token_id", config.get("eos_token_id"))
    return frozenset(ids if isinstance(ids, list) else [ids])
