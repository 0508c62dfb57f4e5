"""Engines on the bundled models, and the server of the openai engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from tests.unit.engines.bundled import MODELS
from tests.unit.engines.fake_server import FakeServer, serving


@pytest.fixture(scope="module")
def small() -> Iterator[EmbeddedGenerator]:
    engine = EmbeddedGenerator(MODELS / "small")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def large() -> Iterator[EmbeddedGenerator]:
    engine = EmbeddedGenerator(MODELS / "large")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def prm() -> Iterator[EmbeddedScorer]:
    engine = EmbeddedScorer(MODELS / "prm")
    yield engine
    engine.close()


@pytest.fixture
def lone() -> Iterator[EmbeddedGenerator]:
    """A small model that writes one sequence at a time, for tests that hold or break it."""
    engine = EmbeddedGenerator(MODELS / "small", max_batch=1)
    yield engine
    engine.close()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving() as server:
        yield server
