"""Remembers which parameters a server refuses, so that one refused request teaches it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.engines.openai.reasons import Failed
from shared.log import get_logger
from shared.parameters import OWN, Parameters

_log = get_logger(__name__)

_NEEDED = OWN | {
    "continue_final_message",
    "add_generation_prompt",
    "logprobs",
    "top_logprobs",
    "return_tokens_as_token_ids",
}
"""Parameters without which an answer would not be the one that was asked for, or that callers do without themselves."""

_SUCCESSOR = {"max_tokens": "max_completion_tokens"}
"""New names of parameters that OpenAI replaced."""


@dataclass(slots=True)
class Support:
    """What is known about the parameters of one server."""

    parameters: Parameters
    """What the settings say."""
    model: str
    """Name of the model, for the log."""
    _renamed: dict[str, str] = field(default_factory=dict)
    _dropped: set[str] = field(default_factory=set)

    def applied_to(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of a request as the server should accept it."""
        sent = self.parameters.applied_to(body)
        if not self._dropped and not self._renamed:
            return sent
        return {
            self._renamed.get(name, name): _without(name, value, self._dropped)
            for name, value in sent.items()
            if name not in self._dropped
        }

    def learn(self, sent: Mapping[str, Any], failed: Failed) -> bool:
        """Remember which parameters a refusal names as unsupported; returns whether it names any that were sent."""
        unsupported = failed.refused(_names(sent))
        for name in unsupported:
            successor = _SUCCESSOR.get(name)
            if successor is not None and successor.replace("_", " ") in failed.reason:
                self._renamed[name] = successor
            else:
                self._dropped.add(name)
        if unsupported:
            _log.warning("parameters_refused", model=self.model, parameters=sorted(unsupported))
        return bool(unsupported)


def _names(sent: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sent.items():
        if name in _NEEDED:
            continue
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)


def _without(name: str, value: Any, dropped: set[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {inner: each for inner, each in value.items() if f"{name}.{inner}" not in dropped}
