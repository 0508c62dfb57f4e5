"""Runs the suite on every engine; those with vLLM where it is installed (`make test-vllm`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from bench.vllm_on_cpu import ENVIRONMENT
from tests.engines.deployed import Engine, running

os.environ.update(ENVIRONMENT)  # before anything imports vLLM

HAS_VLLM = importlib.util.find_spec("vllm") is not None


@pytest.fixture(
    scope="session",
    params=[
        "scripted",
        "embedded",
        *(
            pytest.param(name, marks=pytest.mark.skipif(not HAS_VLLM, reason="needs vLLM; run make test-vllm"))
            for name in ("vllm", "openai")
        ),
    ],
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Each engine in turn."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as engine:
        yield engine
