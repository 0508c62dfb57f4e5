"""Prevents text that spells a special token from becoming that token in a model's tokenizer."""

from __future__ import annotations

import re

_SPECIAL = re.compile(
    r"<(?="
    r"[|｜][^|｜<>\s]{1,64}[|｜]>"  # <|im_end|> and similar ones, also with DeepSeek's full-width bars
    r"|extra_\d+>"
    r"|/?s>|(?:bos|eos|pad|unk)>|(?:start|end)_of_turn>"
    r")"
    r"|\[(?=/?(?:"  # Mistral's, by name, because brackets are common in mathematics
    r"INST|SYSTEM_PROMPT|THINK|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID"
    r"|PREFIX|MIDDLE|SUFFIX|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO"
    r")\])"
)


def as_plain_text(text: str) -> str:
    """Insert a zero-width space into each special token that the text spells; other text stays unchanged.

    Questions come from strangers and steps from models, and neither may close a turn of a template or forge the tag of
    a step. The embedded engine configures its tokenizer to encode them as text. The tokenizers of servers cannot be
    configured, so we change the text, invisibly.
    """
    return _SPECIAL.sub("\\g<0>\N{ZERO WIDTH SPACE}", text)
