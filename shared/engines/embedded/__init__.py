"""The embedded engine: small models on ONNX Runtime, in this process, with batching and a prefix cache."""

from __future__ import annotations

import os

# ONNX Runtime sends usage data to its vendor, and stores an id for it in the home folder, unless this variable is set
# before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
