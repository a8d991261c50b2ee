"""The store in memory: its bounds, its clock, and that nothing is dropped to make room."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.errors import ToolUnavailable
from gateway.policies.store import MemoryStore
from tests.gateway.policed import Clock, at_once

pytestmark = pytest.mark.anyio


async def test_what_is_over_the_bounds_is_refused_and_nothing_is_dropped() -> None:
    clock = Clock()
    store = MemoryStore(max_entries=3, max_bytes=100, clock=clock)
    for key in "abc":
        assert await store.set_if_absent(key, b"x" * 20, 10) is None
    with pytest.raises(ToolUnavailable, match="max_entries=3"):
        await store.set_if_absent("d", b"x", 10)
    with pytest.raises(ToolUnavailable, match="max_entries=3"):
        await store.take("bucket", 1, 5, 1)
    with pytest.raises(ToolUnavailable, match="max_bytes=100"):
        await store.replace("a", b"x" * 20, b"x" * 61, 10)
    assert await store.replace("a", b"x" * 20, b"x" * 60, 10)
    assert [await store.get(key) for key in "abc"] == [b"x" * 60, b"x" * 20, b"x" * 20]
    assert await store.take("bucket", 0, 5, 1) == (0, 5)  # looking needs no room
    clock.now += 10
    assert await store.set_if_absent("d", b"x" * 100, 10) is None


async def test_removing_makes_room() -> None:
    store = MemoryStore(max_entries=1, max_bytes=10)
    for number in range(500):
        await store.set(str(number), b"x" * 10, 3600)
        assert await store.delete(str(number))
    assert store.size == 0
    assert len(store._queue) <= 101  # what is left of the ones that were removed before their end


async def test_a_bucket_of_a_clock_that_goes_back_gives_nothing_for_it() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.take("b", 5, 5, 1)
    clock.now -= 100
    assert (await store.take("b", 1, 5, 1)).retry_after_seconds == 1


class StoreMachine(RuleBasedStateMachine):
    """A store against a dict of values and their ends."""

    keys = st.sampled_from("abc")
    data = st.binary(max_size=2)
    ttls = st.none() | st.integers(1, 5)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.model: dict[str, tuple[bytes, float]] = {}

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        self.model = {key: kept for key, kept in self.model.items() if kept[1] > self.clock.now}

    @rule(key=keys, data=data, ttl=ttls)
    def set(self, key: str, data: bytes, ttl: int | None) -> None:
        at_once(self.store.set(key, data, ttl))
        self._put(key, data, ttl)

    @rule(key=keys, data=data, ttl=ttls)
    def claim(self, key: str, data: bytes, ttl: int | None) -> None:
        found = at_once(self.store.set_if_absent(key, data, ttl))
        assert found == self.model.get(key, (None,))[0]
        if found is None:
            self._put(key, data, ttl)

    @rule(key=keys, expected=data, data=data, ttl=ttls)
    def replace(self, key: str, expected: bytes, data: bytes, ttl: int | None) -> None:
        done = at_once(self.store.replace(key, expected, data, ttl))
        assert done == (self.model.get(key, (None,))[0] == expected)
        if done:
            self._put(key, data, ttl)

    @rule(key=keys, expected=st.none() | data)
    def delete(self, key: str, expected: bytes | None) -> None:
        there = self.model.get(key, (None,))[0]
        gone = at_once(self.store.delete(key, expected))
        assert gone == (there is not None and expected in (None, there))
        if gone:
            del self.model[key]

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert {key: at_once(self.store.get(key)) for key in self.model} == {
            key: value for key, (value, _) in self.model.items()
        }
        assert self.store.size == len(self.model)
        assert self.store._bytes == sum(len(value) for value, _ in self.model.values())

    def _put(self, key: str, data: bytes, ttl: int | None) -> None:
        self.model[key] = data, float("inf") if ttl is None else self.clock.now + ttl


StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestStore = StoreMachine.TestCase
