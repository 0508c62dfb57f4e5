"""The bytes of each token of a vocabulary."""

from __future__ import annotations

import itertools
import json

from tokenizers import Tokenizer


def token_bytes(tokenizer: Tokenizer, count: int) -> list[bytes]:
    """List the bytes of `count` tokens by id; special tokens and unused ids have none.

    A token may end within a character, so decode the joined bytes, not those of one token.

    Raises:
        ValueError: The tokenizer is not a byte-level one, or has more tokens.
    """
    description = json.loads(tokenizer.to_str())
    if (description["decoder"] or {}).get("type") != "ByteLevel":
        raise ValueError("the tokenizer is not a byte-level one")
    added = {token["id"]: token for token in description["added_tokens"]}
    letters = _letters()
    by_id = [b""] * count
    for text, index in tokenizer.get_vocab().items():
        if index >= count:
            raise ValueError(f"the tokenizer has a token {index}, the model has {count}")
        if index not in added:
            by_id[index] = bytes(letters[character] for character in text)
        elif not added[index]["special"]:
            by_id[index] = text.encode()
    return by_id


def _letters() -> dict[str, int]:
    """Map the letters of byte-level vocabularies to bytes: printable Latin-1 to itself, the rest from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = itertools.count(256)
    return {chr(byte if byte in printable else next(spare)): byte for byte in range(256)}
