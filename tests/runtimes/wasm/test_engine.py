"""The doors of wasmtime that its Python package leaves closed are where we expect them, and do what we need."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

wasmtime = pytest.importorskip("wasmtime")

from runtimes.wasm.engine import checked, compiled_path, make_engine  # noqa: E402 - after the check of an engine

ENDLESS = '(module (func (export "run") (loop (br 0))))'


def endless(engine: Any) -> tuple[Any, Any]:
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1 << 60)
    instance = wasmtime.Instance(store, wasmtime.Module(engine, ENDLESS), [])
    return store, instance.exports(store)["run"]


def tick(engine: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        time.sleep(0.005)
        engine.increment_epoch()


@pytest.fixture
def engine() -> Any:
    engine, pools = make_engine(max_guests=2)
    assert pools, "this wasmtime has moved the pooling allocator"
    return engine


def test_a_check_at_every_epoch_stops_an_endless_guest_with_its_words(engine: Any) -> None:
    store, run = endless(engine)
    stop, calls, threads = threading.Event(), [0], set()

    def check() -> str | None:
        calls[0] += 1
        threads.add(threading.get_ident())
        return "that is enough" if calls[0] >= 3 else None

    ticker = threading.Thread(target=tick, args=(engine, stop))
    ticker.start()
    try:
        with pytest.raises(wasmtime.WasmtimeError, match="that is enough"), checked(store, 1, check):
            run(store)
    finally:
        stop.set()
        ticker.join()
    assert calls == [3]
    assert threads == {threading.get_ident()}


def test_a_guest_nobody_watches_over_is_stopped(engine: Any) -> None:
    store, run = endless(engine)
    with checked(store, 2, lambda: None):
        pass
    engine.increment_epoch()
    with pytest.raises(wasmtime.WasmtimeError, match="no one watches over this guest"):
        run(store)


def test_the_pool_has_room_for_so_many_guests_and_no_more(engine: Any) -> None:
    module_ = wasmtime.Module(engine, "(module (memory 1))")
    held: list[Any] = []

    def fill() -> None:
        while True:
            store = wasmtime.Store(engine)
            wasmtime.Instance(store, module_, [])
            held.append(store)

    with pytest.raises(wasmtime.WasmtimeError, match="maximum concurrent"):
        fill()
    assert len(held) >= 2
    held.pop().close()
    wasmtime.Instance(wasmtime.Store(engine), module_, [])


def test_without_the_pooling_door_guests_are_made_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(wasmtime._bindings, "wasmtime_pooling_allocation_config_new")
    engine, pools = make_engine(max_guests=1)
    assert not pools
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1)
    instance = wasmtime.Instance(
        store, wasmtime.Module(engine, '(module (func (export "run") (result i32) i32.const 7))'), []
    )
    assert instance.exports(store)["run"](store) == 7


def test_compiled_code_is_kept_by_guest_and_engine(tmp_path: Path) -> None:
    one = compiled_path(tmp_path, "digest", "50.0.0")
    assert compiled_path(tmp_path, "digest", "50.0.0") == one
    assert one.parent == tmp_path
    assert compiled_path(tmp_path, "other", "50.0.0") != one
    assert compiled_path(tmp_path, "digest", "50.0.1") != one
