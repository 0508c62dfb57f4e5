"""What a process knows of keys: for how long, how much of it, and what a flood of invented keys costs."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.api.access import keyring
from services.api.access.errors import KeyExpired, KeyRevoked, Unauthenticated
from services.api.access.keyring import LIFE_S, Keyring
from shared.domain.scopes import Scope
from shared.store.access import FoundKey, hash_of
from shared.store.database import DatabaseUnavailable

PATIENCE_S = 30.0
WELL_FORMED = f"trim_{'0a' * 5}_{'1b' * 32}"


def invent(prefix: str | None = None) -> str:
    return f"trim_{prefix or secrets.token_hex(5)}_{secrets.token_hex(32)}"


@dataclass
class PlayedDatabase:
    """Has keys by their prefixes, and counts statements; a test may hold a statement back, or have it fail."""

    keys: dict[str, FoundKey] = field(default_factory=dict)
    lookups: list[Collection[str]] = field(default_factory=list)
    now: float = 1000.0
    during: Callable[[], object] = lambda: None

    @contextmanager
    def session(self) -> Iterator[None]:
        yield None

    def find(self, _session: None, prefixes: Collection[str]) -> list[FoundKey]:
        self.lookups.append(prefixes)
        self.during()
        return [self.keys[each] for each in prefixes if each in self.keys]

    def add(self, **values: Any) -> str:
        text = invent()
        prefix = text.split("_")[1]
        self.keys[prefix] = replace(
            FoundKey(
                id=uuid4(), tenant_id=UUID(int=7), prefix=prefix, secret_hash=hash_of(text),
                scopes=frozenset({Scope.READ}), is_revoked=False, expires_in_s=None, is_use_recorded=True,
                requests_per_minute=None,
            ),
            **values,
        )  # fmt: skip
        return text


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> PlayedDatabase:
    played = PlayedDatabase()
    monkeypatch.setattr(keyring, "find_keys", played.find)
    return played


@pytest.fixture
def ring(database: PlayedDatabase) -> Keyring:
    return Keyring(database, monotonic=lambda: database.now)  # type: ignore[arg-type]


def check(ring: Keyring, text: str) -> FoundKey:
    return asyncio.run(ring.check(text))


def test_a_key_is_looked_up_once_in_its_life_and_then_again(ring: Keyring, database: PlayedDatabase) -> None:
    text = database.add()
    assert {check(ring, text).tenant_id for _ in range(3)} == {UUID(int=7)}
    assert len(database.lookups) == 1
    prefix = text.split("_")[1]
    database.keys[prefix] = replace(database.keys[prefix], is_revoked=True)
    database.now += LIFE_S - 0.001
    assert check(ring, text)
    database.now += 0.001
    for _ in range(2):
        with pytest.raises(KeyRevoked):
            check(ring, text)
    assert len(database.lookups) == 2


def test_a_key_expires_to_the_moment(ring: Keyring, database: PlayedDatabase) -> None:
    text = database.add(expires_in_s=2.0)
    assert check(ring, text)
    database.now += 1.999
    assert check(ring, text)
    [prefix] = database.keys
    database.keys[prefix] = replace(database.keys[prefix], expires_in_s=-0.001)
    database.now += 0.001
    with pytest.raises(KeyExpired):
        check(ring, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "trim_",
        "trim_0123456789_",
        "é",
        WELL_FORMED.upper(),
        f"{WELL_FORMED}\n",
        f" {WELL_FORMED}",
        WELL_FORMED[:-1],
    ],
)
def test_what_has_not_the_form_of_a_key_is_refused_without_a_look(
    ring: Keyring, database: PlayedDatabase, text: str
) -> None:
    with pytest.raises(Unauthenticated):
        check(ring, text)
    assert database.lookups == []


def test_a_known_prefix_with_another_secret_is_as_unknown_as_an_invented_key(
    ring: Keyring, database: PlayedDatabase
) -> None:
    text = database.add(is_revoked=True)
    for wrong in (invent(text.split("_")[1]), invent()):
        for _ in range(2):
            with pytest.raises(Unauthenticated) as refused:
                check(ring, wrong)
            assert (str(refused.value), type(refused.value)) == (str(Unauthenticated()), Unauthenticated)
    assert len(database.lookups) == 2, "what is unknown is remembered too"


def test_invented_keys_push_out_no_existing_one_and_fill_no_memory(
    ring: Keyring, database: PlayedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "MAX_KNOWN", 5)
    text = database.add()
    check(ring, text)
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            check(ring, invent())
    assert len(ring._invented) == 5
    before = len(database.lookups)
    assert check(ring, text)
    assert len(database.lookups) == before


def test_keys_that_wait_for_a_statement_share_the_next_one(ring: Keyring, database: PlayedDatabase) -> None:
    text, held = database.add(), threading.Event()

    async def flood() -> list[object]:
        first = asyncio.create_task(ring.check(invent()))
        while not database.lookups:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(ring.check(invent())) for _ in range(400)]
        valid = asyncio.create_task(ring.check(text))
        await asyncio.sleep(0.01)
        held.set()
        return await asyncio.gather(first, *others, valid, return_exceptions=True)

    database.during = lambda: held.wait(PATIENCE_S)
    *refused, found = asyncio.run(flood())
    assert {type(each) for each in refused} == {Unauthenticated}
    assert isinstance(found, FoundKey)
    assert [len(each) for each in database.lookups] == [1, 401]


def test_without_the_database_known_keys_pass_for_their_life_and_failures_are_not_remembered(
    ring: Keyring, database: PlayedDatabase
) -> None:
    text, other = database.add(), database.add()
    check(ring, text)

    def fail() -> None:
        raise DatabaseUnavailable

    database.during = fail
    assert check(ring, text)
    with pytest.raises(DatabaseUnavailable):
        check(ring, other)
    database.during = lambda: None
    assert check(ring, other)


def test_a_use_is_reported_once_if_none_is_recorded(ring: Keyring, database: PlayedDatabase) -> None:
    fresh, recorded = database.add(is_use_recorded=False), database.add(is_use_recorded=True)
    for text in (fresh, recorded, fresh):
        check(ring, text)
    assert ring.take_used() == {database.keys[fresh.split("_")[1]].id}
    assert ring.take_used() == set()
