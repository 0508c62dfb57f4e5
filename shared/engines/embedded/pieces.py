"""The bytes that a token stands for."""

from __future__ import annotations

import json
from itertools import count

from tokenizers import Tokenizer

from shared.engines.port import ModelUnusable


def pieces_of(tokenizer: Tokenizer) -> list[bytes]:
    """List the bytes of every token by id; those of a special token are empty.

    A token may end in the middle of a character, so pieces are bytes, to be joined before they are decoded.

    Raises:
        ModelUnusable: The tokenizer is not a byte-level one.
    """
    description = json.loads(tokenizer.to_str())
    if (description["decoder"] or {}).get("type") != "ByteLevel":
        raise ModelUnusable("the model's tokenizer is not a byte-level one")
    added = {token["id"]: token for token in description["added_tokens"]}
    letters = _letters()
    pieces = [b""] * (max(tokenizer.get_vocab().values()) + 1)
    for text, index in tokenizer.get_vocab().items():
        if index not in added:
            pieces[index] = bytes(letters[character] for character in text)
        elif not added[index]["special"]:
            pieces[index] = text.encode()
    return pieces


def _letters() -> dict[str, int]:
    """Map the letters of byte-level vocabularies to bytes: printable Latin-1 as it is, the rest counted from 256."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = count(256)
    return {chr(byte if byte in printable else next(spare)): byte for byte in range(256)}
