"""Refusals of requests because of who sends them, or how many."""

from __future__ import annotations

from shared.errors import PermanentError, RetryableError


class Unauthenticated(PermanentError):
    """The request has no valid key; send the header `Authorization: Bearer KEY`."""

    code = "unauthenticated"


class KeyExpired(PermanentError):
    """The key has expired; use its successor, or have an admin create one."""

    code = "key_expired"


class KeyRevoked(PermanentError):
    """The key was revoked; have an admin create another one."""

    code = "key_revoked"


class ScopeMissing(PermanentError):
    """The key lacks the scope that the request needs; use a key that has it."""

    code = "scope_missing"


class DefaultTenantOnly(PermanentError):
    """Only admins of the default tenant may manage tenants; use a key of that tenant."""

    code = "default_tenant_only"


class RateLimited(RetryableError):
    """The tenant has sent as many requests in this minute as it may; try again when the next one begins."""

    code = "rate_limited"

    def __init__(self, limit: int, *, retry_after_s: int) -> None:
        super().__init__(
            f"The tenant may send {limit} requests a minute, and has; try again in {retry_after_s} s, when the next "
            "minute begins."
        )
        self.retry_after_s = retry_after_s
