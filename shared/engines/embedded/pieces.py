"""The bytes that a token stands for."""

from __future__ import annotations

import itertools
import json

from tokenizers import Tokenizer


def pieces_of(tokenizer: Tokenizer, count: int) -> list[bytes]:
    """List the bytes of `count` tokens by id; those of a special token, and of an id that stands for none, are empty.

    A token may end in the middle of a character, so pieces are bytes, to be joined before they are decoded.

    Raises:
        ValueError: The tokenizer is not a byte-level one, or knows more tokens.
    """
    description = json.loads(tokenizer.to_str())
    if (description["decoder"] or {}).get("type") != "ByteLevel":
        raise ValueError("the tokenizer is not a byte-level one")
    added = {token["id"]: token for token in description["added_tokens"]}
    letters = _letters()
    pieces = [b""] * count
    for text, index in tokenizer.get_vocab().items():
        if index >= count:
            raise ValueError(f"the tokenizer knows a token {index}, the model has {count}")
        if index not in added:
            pieces[index] = bytes(letters[character] for character in text)
        elif not added[index]["special"]:
            pieces[index] = text.encode()
    return pieces


def _letters() -> dict[str, int]:
    """Map the letters of byte-level vocabularies to bytes: printable Latin-1 as it is, the rest counted from 256."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = itertools.count(256)
    return {chr(byte if byte in printable else next(spare)): byte for byte in range(256)}
