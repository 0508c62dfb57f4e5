"""The version of the client, which is that of the service that it was released with."""

from __future__ import annotations

VERSION = "0.1.0"
