"""Prompts for the engines that take a text or messages."""

from __future__ import annotations

import hashlib

from shared.engines.special_tokens import as_plain_text

_SOLVE = (
    "Solve the problem step by step. Put a blank line between two steps and none within a step."
    " Put the final answer within \\boxed{}."
)


def fill(template: str, question: str) -> str:
    """Insert a question into the template of a prompt."""
    return template.replace("{question}", as_plain_text(question))


def solving(question: str) -> list[dict[str, str]]:
    """Return the messages before the solution, for chat models."""
    return [{"role": "system", "content": _SOLVE}, {"role": "user", "content": as_plain_text(question)}]


def request_seed(seed: int, position: int) -> int:
    """Derive the seed of one request, 0 to 2^31 - 1, from the problem's seed and the request's place in the solution.

    Servers and engines restart their random numbers at each request; with one seed for all requests, they would draw
    each step with the same numbers.
    """
    digest = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1
