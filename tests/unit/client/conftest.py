"""Both clients, on a service that answers as a test scripts it. No test waits."""

from __future__ import annotations

import pytest

from tests.unit.client.service import Service


@pytest.fixture(params=["synchronous", "asynchronous"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service for one of the two clients; sleeps are recorded and return at once."""
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)

    monkeypatch.delenv("TRIM_API_KEY", raising=False)
    monkeypatch.setattr("trim_client.connection.time.sleep", sleeps.append)
    monkeypatch.setattr("trim_client.connection.asyncio.sleep", sleep)
    return Service(is_async=request.param == "asynchronous", sleeps=sleeps)
