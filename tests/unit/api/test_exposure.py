"""Where the API may listen without keys."""

from __future__ import annotations

from typing import Literal

import pytest

from services.api.access.exposure import KeysNotRequired, check_exposure, describe_keys
from shared.settings import Settings

Keys = Literal["local", "required", "none"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::"])
@pytest.mark.parametrize("keys", ["required", "none"])
def test_with_a_decision_about_keys_the_api_listens_anywhere(host: str, keys: Keys) -> None:
    check_exposure(Settings(api_host=host, api_keys=keys))


def test_without_a_decision_the_api_listens_on_the_loopback_alone() -> None:
    assert Settings().api_keys == "local"
    check_exposure(Settings())
    check_exposure(Settings(api_host="::1"))
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(KeysNotRequired, match="set TRIM_API_KEYS=required and create a key"):
            check_exposure(Settings(api_host=host))


@pytest.mark.parametrize(("keys", "words"), [("required", "needs one"), ("local", "only this"), ("none", "everyone")])
def test_who_may_use_the_api_is_described(keys: Keys, words: str) -> None:
    assert words in describe_keys(Settings(api_keys=keys))
