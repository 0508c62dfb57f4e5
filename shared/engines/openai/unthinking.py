"""What a server's model thinks, in one step: put into the text that is cut into steps, or left out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR, is_open
from shared.domain.thoughts import CLOSES, OPENS
from shared.engines.openai.completions import Completion
from shared.engines.port import ThinkingTookAll
from shared.engines.special_tokens import as_plain_text
from shared.engines.thinking import Hiding

_ANSWERS = f"\n{CLOSES}{SEPARATOR}"
"""Comes between the thoughts and the answer of a server that sends them apart."""

_OPENS, _CLOSES = "\ue0f0", "\ue0f1"
"""Stand for the tags while the rest of a text is made plain: characters for private use."""


def plain_step(text: str) -> str:
    """Make a step plain text, with nothing in it that stands for a tag."""
    return without_stand_ins(as_plain_text(text))


def without_stand_ins(text: str) -> str:
    """Remove the characters that stand for tags."""
    return text.replace(_OPENS, "").replace(_CLOSES, "")


def keep_tags(text: str) -> str:
    """Replace the tags of thinking by characters that stand for them."""
    return text.replace(OPENS, _OPENS).replace(CLOSES, _CLOSES)


def with_tags(body: Any) -> Any:
    """Return the body of a request with the tags that `keep_tags` replaced."""
    match body:
        case str():
            return body.replace(_OPENS, OPENS).replace(_CLOSES, CLOSES)
        case Mapping():
            return {name: with_tags(value) for name, value in body.items()}
        case list():
            return [with_tags(value) for value in body]
        case _:
            return body


@dataclass(slots=True)
class Channel:
    """What is known of how a server sends what its model thinks."""

    is_apart: bool = False
    """Whether it sends it apart from the text."""
    is_stopped: bool = True
    """Whether requests have stop strings: some servers also apply them to what the model thinks."""


@dataclass(slots=True)
class Unthinking:
    """Leaves what a model thinks out of the completions of one step."""

    channel: Channel
    setting: str
    """Names of the settings that choose whether it thinks."""
    is_first: bool
    """Whether it is the first step, before which a model cannot have said all."""
    raw: str = ""
    """What the model has thought in the text and not finished; the next request continues it, without stop strings."""
    hiding: Hiding = field(default_factory=Hiding)

    def visible(self, completion: Completion) -> Completion | None:
        """Return a completion without what the model thought; `None` if it only thought, and is to be asked once more.

        Raises:
            ThinkingTookAll: It has no tokens left for more than thoughts, or has ended with them.
        """
        self.channel.is_apart = self.channel.is_apart or bool(completion.reasoning)
        was_thinking = self.hiding.is_thinking
        text = self.hiding.visible(completion.text) + self.hiding.rest()
        has_thought = bool(completion.reasoning) or was_thinking or text != completion.text
        if not has_thought:
            return completion
        if text.strip() and not self.hiding.is_thinking:
            self.raw = ""
            return replace(completion, text=text, logprobs=None)
        has_ended = completion.finish is Finish.ENDED and not self.hiding.is_thinking
        if has_ended and not self.is_first:
            return replace(completion, text="", logprobs=None)
        if completion.finish is not Finish.SEPARATOR:
            raise ThinkingTookAll(self.setting)
        if self.hiding.is_thinking:
            self.raw += completion.text + SEPARATOR
        elif self.channel.is_stopped and completion.reasoning:
            self.channel.is_stopped = False
        elif self.is_first:
            raise ThinkingTookAll(self.setting)
        else:
            return replace(completion, text="", logprobs=None)
        return None


def as_text(completion: Completion, channel: Channel, *, is_thinking: bool) -> Completion:
    """Put what a model thinks into the text of its completion, between tags as its template has them.

    A server that sends it apart sends the answer as the text.
    """
    channel.is_apart = channel.is_apart or bool(completion.reasoning)
    if not (is_thinking and channel.is_apart):
        return completion
    answer = _ANSWERS + completion.text if completion.text.strip() else ""
    return replace(completion, text=completion.reasoning + answer, reasoning="")


def without_inserted(text: str, channel: Channel) -> str:
    """Return the end of a text that `as_text` returned, as far as the server sent it."""
    return text.replace(_ANSWERS, "", 1) if channel.is_apart else text


def is_inside(unfinished: str, completion: Completion) -> bool:
    """Tell whether a message stopped at a blank line that ends no step: in a thought, in code, or before any word."""
    text = completion.text
    if text.rfind(OPENS) > text.rfind(CLOSES):
        return True
    return not (text.strip() or completion.reasoning) or is_open(unfinished + text)
