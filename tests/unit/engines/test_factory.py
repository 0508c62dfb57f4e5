"""Checks of the settings before any engine is loaded."""

from __future__ import annotations

import sys

import pytest

from shared.domain.roles import Author
from shared.engines.factory import make_generator, make_scorer
from shared.settings import Settings, UnusableSetting


@pytest.mark.parametrize("engine", ["embedded", "vllm", "openai"])
def test_a_missing_engine_is_reported_with_the_extra_to_install(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("shared.engines.embedded", "shared.engines.openai"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("numpy", "tokenizers", "safetensors", "httpx2"):
        monkeypatch.setitem(sys.modules, name, None)
    settings = Settings(engine=engine)  # type: ignore[arg-type]
    sentence = rf"TRIM_ENGINE={engine} needs \w+, which is not installed.*\[worker,{engine}\]"
    with pytest.raises(UnusableSetting, match=sentence):
        make_generator(settings, Author.SMALL)
    with pytest.raises(UnusableSetting, match=sentence):
        make_scorer(settings)


def test_a_style_that_only_servers_know_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UnusableSetting, match="TRIM_PROMPT_STYLE"):
        make_generator(Settings(engine="vllm", prompt_style="chat-next-step"), Author.SMALL)
