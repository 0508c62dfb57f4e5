"""Tests of the state machine."""

from __future__ import annotations

from tests.unit.simulation.conftest import quiet  # noqa: F401 - a fixture
