"""One contract for all stores: what is kept, for how long, who may change it, and how buckets fill."""

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from gateway.errors import InvalidRequest, ToolUnavailable
from gateway.policies import sql_store
from gateway.policies.redis_store import RedisStore
from gateway.policies.sql_store import SqlStore
from gateway.policies.store import MemoryStore, Store, open_store
from tests.engines import Postgres, Redis, running

pytestmark = pytest.mark.anyio

SOON = 0.15
"""Seconds: the clocks of servers cannot be set."""


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    urls = {"memory": "memory", "sqlite": f"sqlite:///{tmp_path}/store.db"}
    kind: str = request.param
    opened = open_store(urls[kind] if kind in urls else request.getfixturevalue(kind).url)
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
def key() -> str:
    return f"tests/{uuid4().hex}"


async def test_a_value_is_there_until_it_is_removed(store: Store, key: str) -> None:
    assert await store.get(key) is None
    await store.set(key, b"\x00\xff", None)
    await store.set(key, b"two", None)
    assert await store.get(key) == b"two"
    assert await store.delete(key) is True
    assert await store.delete(key) is False
    assert await store.get(key) is None


async def test_a_value_ends_by_itself_and_then_was_never_there(store: Store, key: str) -> None:
    await store.set(key, b"x", SOON)
    await store.set_if_absent(f"{key}/claim", b"mine", SOON)
    assert await store.get(key) == b"x"
    await anyio.sleep(SOON * 1.5)
    assert await store.get(key) is None
    assert await store.delete(key) is False
    assert await store.replace(f"{key}/claim", b"mine", b"late", None) is False
    assert await store.set_if_absent(f"{key}/claim", b"theirs", None) is None
    assert await store.get(f"{key}/claim") == b"theirs"


async def test_a_new_end_counts_from_when_it_was_given(store: Store, key: str) -> None:
    end = 10 * SOON  # a busy machine must not be late for it
    await store.set(key, b"x", end)
    assert await store.replace(key, b"x", b"x", 60) is True
    await anyio.sleep(end * 1.5)
    assert await store.get(key) == b"x"


async def test_what_is_there_is_not_claimed_again(store: Store, key: str) -> None:
    assert await store.set_if_absent(key, b"mine", 60) is None
    assert await store.set_if_absent(key, b"theirs", 60) == b"mine"
    assert await store.get(key) == b"mine"


async def test_of_many_at_once_one_claims(store: Store, key: str) -> None:
    found: list[bytes | None] = []

    async def claim(number: int) -> None:
        found.append(await store.set_if_absent(key, b"%d" % number, 60))

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(claim, number)
    winner = await store.get(key)
    assert found.count(None) == 1
    assert set(found) == {None, winner}


async def test_only_the_owner_replaces_and_removes(store: Store, key: str) -> None:
    await store.set(key, b"mine", 60)
    assert await store.replace(key, b"theirs", b"stolen", 60) is False
    assert await store.delete(key, b"theirs") is False
    assert await store.replace(key, b"mine", b"done", 60) is True
    assert await store.get(key) == b"done"
    assert await store.delete(key, b"done") is True
    assert await store.replace(key, b"done", b"again", 60) is False


async def test_a_large_value_comes_back_whole(store: Store, key: str) -> None:
    value = os.urandom(5 << 20)
    await store.set(key, value, 60)
    assert await store.get(key) == value
    await store.delete(key)


async def test_what_begins_alike_is_cleared_and_nothing_else(store: Store, key: str) -> None:
    names = [f"{key}/a%_*[x]?/{number}" for number in range(3)]
    for name in names:
        await store.set(name, b"x", 60)
    await store.take(f"{key}/a%_*[x]?/bucket", 1, 5, 0.1)
    others = [f"{key}/aXXXx/1", f"{key}/b"]
    for name in others:
        await store.set(name, b"x", 60)
    assert await store.clear(f"{key}/a%_*[x]?/") == 4
    assert [await store.get(name) for name in names] == [None] * 3
    assert [await store.get(name) for name in others] == [b"x"] * 2


async def test_a_bucket_starts_full_and_says_how_long_to_wait(store: Store, key: str) -> None:
    assert await store.take(key, 0, 3, 0.01) == (0, 3)
    assert await store.take(key, 1, 3, 0.01) == (0, 2)
    taken = await store.take(key, 2, 3, 0.01)
    assert (taken.retry_after_seconds, round(taken.available, 1)) == (0, 0)
    refused = await store.take(key, 1, 3, 0.01)
    assert 95 < refused.retry_after_seconds <= 100
    assert refused.available < 0.05
    assert (await store.take(key, 3, 3, 0.01)).retry_after_seconds > 290


async def test_a_bucket_fills_with_time_and_looking_takes_nothing(store: Store, key: str) -> None:
    await store.take(key, 2, 2, 4)
    assert 0 < (await store.take(key, 2, 2, 4)).retry_after_seconds <= 0.5
    await anyio.sleep(0.55)
    assert (await store.take(key, 0, 2, 4)).available == 2
    assert (await store.take(key, 2, 2, 4)).retry_after_seconds == 0


async def test_a_bucket_that_is_made_smaller_holds_no_more_than_that(store: Store, key: str) -> None:
    await store.take(key, 1, 100, 0.01)
    assert (await store.take(key, 0, 5, 0.01)).available == 5


async def test_what_is_given_back_can_be_taken_again_and_no_more_than_fits_is_kept(store: Store, key: str) -> None:
    await store.take(key, 3, 5, 0.001)
    assert (await store.take(key, -2, 5, 0.001)).available == pytest.approx(4, abs=0.01)
    assert (await store.take(key, 4, 5, 0.001)).retry_after_seconds == 0
    assert (await store.take(key, -100, 5, 0.001)).available == 5
    assert (await store.take(key, 0, 5, 0.001)).available == 5
    assert (await store.take(f"{key}/new", -1, 5, 0.001)).available == 5
    assert (await store.take(f"{key}/new", 0, 5, 0.001)).available == 5


async def test_of_many_at_once_no_more_take_than_is_there(store: Store, key: str) -> None:
    granted = 0

    async def take() -> None:
        nonlocal granted
        taken = await store.take(key, 1, 10, 0.001)
        granted += taken.retry_after_seconds == 0

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(take)
    assert granted == 10


async def test_a_cancelled_step_leaves_the_store_in_order(store: Store, key: str) -> None:
    for number in range(10):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.set(key, b"%d" % number, 60)
    await store.set(key, b"last", 60)
    assert await store.get(key) == b"last"


async def test_a_closed_store_opens_again(store: Store, key: str) -> None:
    await store.set(key, b"x", 60)
    await store.aclose()
    await store.aclose()
    assert await store.get(key) in (b"x", None)  # what is in memory is gone
    await store.delete(key)


async def test_rows_that_ended_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_store, "SWEEP_SECONDS", 0.0)
    store = SqlStore(f"sqlite:///{tmp_path}/store.db")
    await store.set("short", b"x", 0.01)
    await store.set("long", b"x", 60)
    await store.take("full", 0, 1, 1)
    await store.take("fills", 1, 1, 100)
    await store.take("empty", 1, 1, 0.01)
    await anyio.sleep(0.05)
    await store.get("long")
    await store.aclose()
    with sqlite3.connect(tmp_path / "store.db") as file:
        kept = {key for (key,) in file.execute("SELECT key FROM toolexec_store")}
    file.close()
    assert kept == {"long", "empty"}


@pytest.fixture(params=[Redis, Postgres])
def dying(request: pytest.FixtureRequest) -> Iterator[Redis | Postgres]:
    with running(request.param) as server:
        yield server


async def test_a_server_that_is_gone_makes_it_unavailable_and_back_it_works(dying: Redis | Postgres, key: str) -> None:
    store = open_store(dying.url)
    await store.set(key, b"x", None)
    dying.stop()
    for step in (partial(store.get, key), partial(store.take, key, 1, 1, 1)):
        with pytest.raises(ToolUnavailable) as caught:
            await step()
        assert "only-for-tests" not in str(caught.value)
        assert caught.value.retryable
    dying.start()
    await store.set(key, b"y", 60)
    assert await store.get(key) == b"y"
    await store.aclose()


@pytest.mark.parametrize(
    "url", ["", "http://x", "mysql://u@h/d", "redis://h:port", "postgresql://", "sqlite://h:port/x?mode=rw"]
)
def test_an_url_that_fits_nowhere_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_store(url)
    assert not url or url not in str(caught.value)


def test_options_are_checked() -> None:
    for wrong in (
        lambda: MemoryStore(max_entries=0),
        lambda: MemoryStore(max_bytes=0),
        lambda: RedisStore("redis://h", prefix=""),
        lambda: SqlStore("sqlite:///x", table="x; DROP TABLE y"),
        lambda: SqlStore("sqlite:///x", pool_size=0),
        lambda: SqlStore("mysql://u@h/d"),
    ):
        with pytest.raises(InvalidRequest):
            wrong()
