"""Signatures of messages, so that nobody without a key can forge what the services tell each other.

A program that can write to the queues could otherwise report steps and scores that no model made, or have a worker
score a text that no model wrote, and so choose a decision. Each process that has keys signs what it publishes with the
first of them, and takes no message without a signature by one of them (docs/operations/signed-messages.md).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final, Self

from kombu.message import Message as KombuMessage

from shared.setting_types import split_message_keys
from shared.settings import Settings

SIGNATURE_HEADER: Final = "x-trim-signature"
"""Header of a message: the name of the key and the signature, as `name:hexadecimal`."""


class MessageKeys:
    """The keys of one process. Without any, it signs nothing and accepts everything."""

    def __init__(self, keys: Mapping[str, str], *, deployment: str) -> None:
        """Take the keys.

        Args:
            keys: Secrets by the names of the keys; the first one signs.
            deployment: Prefix of the queues. It is signed too, so a message of one deployment is worth nothing in
                another one that has the same keys.
        """
        self._secrets = {name: secret.encode() for name, secret in keys.items()}
        self._deployment = deployment.encode()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the keys of a process."""
        written = settings.message_keys
        keys = {} if written is None else split_message_keys(written.get_secret_value())
        return cls(keys, deployment=settings.queue_prefix)

    def sign(self, body: bytes) -> Mapping[str, str]:
        """Return the headers of a message's signature; none without keys."""
        if not self._secrets:
            return {}
        name = next(iter(self._secrets))
        return {SIGNATURE_HEADER: f"{name}:{self._digest(name, body)}"}

    def find_flaw(self, body: bytes, signature: str | None) -> str | None:
        """Return why a message is not accepted; `None` if it is.

        Args:
            body: The message's bytes as they arrived.
            signature: Its header; `None` if it has none.
        """
        if not self._secrets:
            return None
        if signature is None:
            return "it is not signed, which TRIM_MESSAGE_KEYS requires"
        name, _, digest = signature.partition(":")
        if name not in self._secrets:
            return f"it is signed with the key {name[:32]!r}, which TRIM_MESSAGE_KEYS lacks"
        # As bytes: a digest that is not ASCII is a wrong one, and no error.
        if not hmac.compare_digest(self._digest(name, body).encode(), digest.encode("utf-8", "replace")):
            return f"its signature with the key {name!r} is wrong"
        return None

    def _digest(self, name: str, body: bytes) -> str:
        signed = hmac.new(self._secrets[name], self._deployment, hashlib.sha256)
        signed.update(b"\n")
        signed.update(body)
        return signed.hexdigest()


UNSIGNED: Final = MessageKeys({}, deployment="")
"""No keys."""


def signature_of(message: KombuMessage) -> str | None:
    """Return the signature with which a message arrived; `None` if it has none."""
    signature = (message.headers or {}).get(SIGNATURE_HEADER)
    return signature if isinstance(signature, str) else None


def raw(message: KombuMessage) -> bytes:
    """Return the bytes of a message as they arrived."""
    body = message.body
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
