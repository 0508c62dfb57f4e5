"""Checks the files of a model before vLLM reads them."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors

from shared.engines.port import ModelUnusable


def check_folder(folder: Path, setting: str) -> None:
    """Raise `ModelUnusable` for missing or truncated files; vLLM's process would die without naming them."""
    if not folder.is_dir():
        return  # It may be a name on the model hub; vLLM raises an error if it is not.
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    needed = ["config.json", "tokenizer.json", *_shards(folder / "model.safetensors.index.json", setting)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing or not weights:
        raise ModelUnusable(
            f"The model folder {folder} lacks {', '.join(missing) or 'weights'}; restore it, or change {setting}."
        )
    for file in folder.glob("*.safetensors"):
        try:
            with safetensors.safe_open(file, "np"):
                pass
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelUnusable(f"{file} is damaged; restore it, or change {setting}.") from error


def _shards(index: Path, setting: str) -> list[str]:
    """List the weight files that an index names; none if there is no index."""
    if not index.is_file():
        return []
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelUnusable(f"{index} is damaged; restore it, or change {setting}.") from error
