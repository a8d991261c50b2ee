"""The wasmtime engine of a worker, and the compiled guest component in its cache.

wasmtime's Python package leaves two doors closed that this module opens through its C bindings (`wasi.py` uses these
too, for speed): the pooling allocator, and a callback at each epoch. Without the first, guests are made a fifth
slower; without the second there is no backend, because a guest could not be stopped.
`tests/runtimes/wasm/test_engine.py` fails when a release of wasmtime moves either.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wasmtime import Config, Engine, Store
from wasmtime import _bindings as bindings
from wasmtime.component import Component

TICK_SECONDS = 0.01
"""Epochs advance this often while a guest computes: what a guest may run on after it was told to stop."""

IDLE_TICKS = 100
"""It ticks on for so long when no guest computes: to be woken takes time from the guest that comes next."""

MAX_MEMORY_BYTES = 4 << 30
"""Address space of one guest; the whole of wasm32. Only touched pages cost memory."""

STACK_BYTES = 2 << 20
"""wasmtime's own 512 KiB run out at 150 nested brackets."""

_POOLING = {
    "max_core_instances_per_component": 200,
    "max_memories_per_component": 4,
    "max_tables_per_component": 40,
    "table_elements": 100_000,
    "max_component_instance_size": 10 << 20,
    "max_core_instance_size": 10 << 20,
    "max_memory_size": MAX_MEMORY_BYTES,
    # Measured: keeping a used guest's 22 MB resident saves 0.5 ms a run and costs 1.4 ms and 22 MB a guest.
    "linear_memory_keep_resident": 0,
    "table_keep_resident": 1 << 20,
}

_CALLBACK, _FINALIZER = (bindings._wasmtime_store_epoch_deadline_callback.argtypes[i] for i in (1, 3))
_GO_ON = 0
_checks: dict[int, Callable[[], str | None]] = {}


def make_engine(max_guests: int) -> tuple[Engine, bool]:
    """An engine for `max_guests` guests at once, and whether its allocator pools."""
    config = Config()
    config.epoch_interruption = True
    config.wasm_component_model = True
    config.max_wasm_stack = STACK_BYTES
    pools = _pool(config, max_guests)
    return Engine(config), pools


def _pool(config: Config, max_guests: int) -> bool:
    numbers = _POOLING | {
        "total_component_instances": max_guests,
        "total_core_instances": max_guests * 60,
        "total_memories": max_guests * 2,
        "total_tables": max_guests * 10,
    }
    try:
        pooling = bindings.wasmtime_pooling_allocation_config_new()
        for name, number in numbers.items():
            getattr(bindings, f"wasmtime_pooling_allocation_config_{name}_set")(pooling, number)
        bindings.wasmtime_pooling_allocation_strategy_set(config.ptr(), pooling)
    except AttributeError:  # a release without these doors: guests are made on demand
        return False
    return True


@contextlib.contextmanager
def checked(store: Store, key: int, check: Callable[[], str | None]) -> Iterator[None]:
    """While a guest of `store` computes, call `check` at every epoch in the guest's own thread.

    When it returns a text, the guest traps with that text as its message. `key` is unique in this process.
    """
    _checks[key] = check
    bindings.wasmtime_store_epoch_deadline_callback(store.ptr(), _on_epoch, key, _NO_FINALIZER)
    store.set_epoch_deadline(1)
    try:
        yield
    finally:
        del _checks[key]


def _check(_context: Any, key: int | None, delta: Any, kind: Any) -> int:
    delta[0] = 1
    kind[0] = _GO_ON
    check = _checks.get(key or 0)
    reason = "no one watches over this guest" if check is None else check()
    if reason is None:
        return 0
    error = bindings.wasmtime_error_new(ctypes.create_string_buffer(reason.encode()))
    return ctypes.addressof(error.contents)


_on_epoch = _CALLBACK(_check)  # lives as long as the module: C code keeps its address
_NO_FINALIZER: Any = _FINALIZER(0)


class Ticker:
    """Advances the engine's epoch while at least one guest computes, and a second longer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._computing = 0
        self._wake = threading.Condition()
        threading.Thread(target=self._tick, daemon=True).start()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self._wake:
            self._computing += 1
            self._wake.notify()
        try:
            yield
        finally:
            with self._wake:
                self._computing -= 1

    def _tick(self) -> None:
        idle_ticks = 0
        while True:
            with self._wake:
                idle_ticks = 0 if self._computing else idle_ticks + 1
                if idle_ticks > IDLE_TICKS:
                    self._wake.wait()
                    idle_ticks = 0
            time.sleep(TICK_SECONDS)
            self._engine.increment_epoch()


def compiled_path(cache: Path, digest: str, release: str) -> Path:
    """Where in `cache` this release of wasmtime keeps the compiled form of the guest with this digest, or will."""
    return cache / f"{_fingerprint(digest, release)}.cwasm"


def compile_guest(wasm: Path, compiled: Path) -> None:
    """Compile the guest (about 5 s) unless another process just did."""
    with (compiled.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if compiled.exists():
            return
        engine, _ = make_engine(max_guests=1)
        partial = compiled.with_suffix(f".{os.getpid()}")
        partial.write_bytes(Component(engine, wasm.read_bytes()).serialize())
        partial.rename(compiled)


def _fingerprint(digest: str, release: str) -> str:
    """Changes with the guest, wasmtime, and the processor: compiled code fits one of each."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))]
    parts = (digest, release, platform.machine(), *flags[:1])
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


if __name__ == "__main__":
    compile_guest(Path(sys.argv[1]), Path(sys.argv[2]))
