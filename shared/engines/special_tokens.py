"""Keeps text that spells a special token from becoming one in a model's tokenizer."""

from __future__ import annotations

import re

_SPECIAL = re.compile(
    r"<(?="
    r"[|｜][^|｜<>\s]{1,64}[|｜]>"  # <|im_end|> and its kin, with DeepSeek's full-width bars too
    r"|extra_\d+>"
    r"|/?s>|(?:bos|eos|pad|unk)>|(?:start|end)_of_turn>"
    r")"
    r"|\[(?=/?(?:"  # Mistral's, by name: brackets are common in mathematics
    r"INST|SYSTEM_PROMPT|THINK|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID"
    r"|PREFIX|MIDDLE|SUFFIX|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO"
    r")\])"
)


def as_plain_text(text: str) -> str:
    """Put a zero-width space into whatever spells a special token.

    Questions come from strangers, steps from models: neither may close a turn of a template or forge a step's tag. The
    embedded engine tells its tokenizer so; a server's cannot be told, so that here the text itself is changed, in a
    way that nobody sees. All other text stays as it is.
    """
    return _SPECIAL.sub("\\g<0>\N{ZERO WIDTH SPACE}", text)
