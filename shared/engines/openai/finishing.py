"""Reads the word with which a server reports why a model stopped. Servers share few of them."""

from __future__ import annotations

import re
from typing import Any

from shared.domain.drafts import Finish
from shared.domain.text import STOPS
from shared.engines.openai.errors import AnswerWithheld, IncompleteAnswer
from shared.log import get_logger

_log = get_logger(__name__)

_CUT = frozenset({"length", "max_tokens", "max_length", "max_output_tokens", "max_completion_tokens", "model_length"})
_ENDED = frozenset({"eos", "eos_token", "end_turn", "end_of_sequence", "stop_token"})
"""Words that say that the model ended by itself."""
_AT_STOP_STRING = frozenset({"stop_sequence", "stop_string", "stop_str"})
_STOPPED = frozenset({"stop", "stopped", "end", "done", "complete", "completed", "tool_calls", "function_call"})
"""Words that do not name what the model stopped at. A model that calls a tool has nothing more to write."""
_WITHHELD = frozenset({"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "refusal"})
_BROKEN_OFF = frozenset({"abort", "aborted", "error", "cancelled", "canceled", "insufficient_system_resource"})

_WORD = re.compile(r"[a-z_]{1,40}")
_STOP_REASONS = ("stop_reason", "matched_stop")
"""The stop string or end token that was met, as vLLM and SGLang name it."""

_logged: set[str] = set()


def read_finish(choice: dict[str, Any]) -> tuple[Finish, bool] | None:
    """Return why the model stopped, and whether the server names what it stopped at; `None` if it has not stopped.

    A word that is not known means that the model stopped; it is logged once.

    Raises:
        AnswerWithheld: The server's content filter ended the answer.
        IncompleteAnswer: The server broke off the request.
    """
    word = choice.get("finish_reason")
    if not isinstance(word, str) or not word:
        return None
    word = word.lower()
    if word in _CUT:
        return Finish.LENGTH, True
    if word in _ENDED:
        return Finish.ENDED, True
    if word in _WITHHELD:
        raise AnswerWithheld
    if word in _BROKEN_OFF:
        raise IncompleteAnswer("The model's server broke off the request while it was writing; check its log.")
    if word not in _STOPPED | _AT_STOP_STRING:
        _log_once(word)
    if (named := next((name for name in _STOP_REASONS if name in choice), None)) is not None:
        return (Finish.SEPARATOR if choice[named] in STOPS else Finish.ENDED), True
    return Finish.SEPARATOR, word in _AT_STOP_STRING


def _log_once(word: str) -> None:
    if word not in _logged and len(_logged) < len(_STOPPED) * 8:
        _logged.add(word)
        _log.warning("finish_reason_unknown", finish_reason=word if _WORD.fullmatch(word) else "(not a word)")
