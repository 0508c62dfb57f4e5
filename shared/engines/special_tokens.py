"""Prevents text that spells a special token from becoming that token in a model's tokenizer."""

from __future__ import annotations

import re

_SPECIAL = re.compile(
    r"(?P<struck><s>[^<>\[\]|｜/\n]+</s>)"  # struck-out text in HTML
    r"|<(?="
    r"[|｜][^|｜<>\s]{1,64}[|｜]>"  # <|im_end|> and similar ones, also with DeepSeek's full-width bars
    r"|[|｜][A-Za-z]\w{2,63}>|[A-Za-z]\w{2,63}[|｜]>"  # Gemma 4's pairs, <|turn> and <turn|>
    r"|/?(?:s|think|thinking|tool_calls?|tool_response|arg_key|arg_value|role|(?:seed|minimax):\w{1,64})>"
    r"|(?i:bos|eos|pad|unk|mask|cls|sep|sop|eop)>|[A-Z]{2,8}_TOKEN>|</?SYS>>"
    r"|(?:start|end)_of_(?:turn|image|audio)>|(?:image|audio)_soft_token>"
    r"|extra_(?:id_)?\d+>|(?:unused|reserved_?|SPECIAL_)\d+>"
    r"|fim_\w{1,16}>|file_sep>|repo_?name>"
    r")"
    r"|\[(?=/?(?:"  # By name, because brackets are common in mathematics
    r"INST|SYSTEM_PROMPT|THINK|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID"  # Mistral
    r"|PREFIX|MIDDLE|SUFFIX|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO"
    r"|BOS|EOS|EOT|PAD|UNK|CLS|SEP|[gs]?MASK|(?:start|end)_header_id|UNUSED_TOKEN_\d+|multimodal|@BOS@"
    r")\]|e~\[)"
    r"|\](?=~!?b[\[\]])"  # MiniMax
    r"|｜(?=DSML｜)"  # DeepSeek's calls of tools
    r"|/(?=nothink)"  # GLM
)


def as_plain_text(text: str) -> str:
    """Insert a zero-width space into each special token that the text spells; other text stays unchanged.

    Questions come from strangers and steps from models, and neither may close a turn of a template or forge the tag of
    a step. The embedded engine configures its tokenizer to encode them as text. The tokenizers of servers cannot be
    configured, so we change the text, invisibly.

    Other HTML stays, even where a tokenizer has tokens for it, and so does `<s>5</s>` on one line, which strikes out
    a number.
    """
    return _SPECIAL.sub(lambda found: found[0] if found["struck"] else f"{found[0]}\N{ZERO WIDTH SPACE}", text)


def is_special(text: str) -> bool:
    """Tell whether a token is spelled like a special one, whatever its tokenizer calls it."""
    return as_plain_text(text) != text
