"""The version of the service: the one place that states it."""

from __future__ import annotations

VERSION = "0.1.0"
"""Version of this code. A constant, because an image runs the code without an installed distribution."""

PRODUCT = f"trim-service {VERSION}"
"""What `--version` prints."""
