"""Where the API may listen: without keys, on this machine alone."""

from __future__ import annotations

from shared.addresses import is_loopback
from shared.errors import PermanentError
from shared.settings import Settings


class KeysNotRequired(PermanentError):
    """The API would listen for other machines without requiring keys; set TRIM_API_KEYS."""

    code = "keys_not_required"


def check_exposure(settings: Settings) -> None:
    """Check that the API listens on the loopback alone, or that someone decided about keys.

    Raises:
        KeysNotRequired: It would let everyone in who reaches it, by default.
    """
    if settings.api_keys == "local" and not is_loopback(settings.api_host):
        raise KeysNotRequired(
            f"The API would listen on {settings.api_host} (TRIM_API_HOST) without requiring keys; set "
            "TRIM_API_KEYS=required and create a key (docs/operations/access.md), or let everyone in who reaches it "
            "with TRIM_API_KEYS=none."
        )


def describe_keys(settings: Settings) -> str:
    """Describe in words who may use the API."""
    match settings.api_keys:
        case "required":
            return "every request needs one"
        case "local":
            return "none are needed, and only this machine can reach the API"
        case "none":
            return "none are needed, so everyone may use the API who can reach it"
