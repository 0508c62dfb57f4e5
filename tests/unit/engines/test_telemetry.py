"""ONNX Runtime sends nothing to its vendor, and writes nothing to the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.engines.bundled import MODELS

LOAD = {
    "the engine": "from shared.engines.embedded.scorer import EmbeddedScorer; import onnxruntime",
    "the recipe": "import recipe.export; import onnxruntime",
}
RUN = f"onnxruntime.InferenceSession({str(MODELS / 'prm' / 'model.onnx')!r}, providers=['CPUExecutionProvider'])"


@pytest.mark.parametrize("load", LOAD.values(), ids=LOAD)
def test_loading_a_model_leaves_no_trace_in_the_home_folder(load: str, tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = {**inherited, "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", f"{load}; {RUN}"], env=environment, timeout=60, check=True)
    assert list(tmp_path.iterdir()) == []
