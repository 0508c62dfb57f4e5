"""How the bundled models are made and measured: problems with known answers, training, export. Not in the wheel."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the first import of ONNX Runtime, as in the engine
