"""Time and chance of a guest, as WASI has them: its clocks and its random numbers, in place of wasmtime's own.

They are asked for by every guest's C library, so nothing in a guest has another source. Written on wasmtime's C
bindings because its Python package takes fifty microseconds to build a record, and two for each byte of a list.
"""

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from wasmtime import WasmtimeError
from wasmtime import _bindings as bindings
from wasmtime.component import LinkerInstance

from runtimes.wasm.border import add_raw
from runtimes.wasm.tape import Tape

VERSION = "0.2.9"
"""Of WASI, as componentize-py has it in the guest: a wrong one keeps every guest from starting."""

MONOTONIC_BASE_MICROS = 86_400_000_000
"""The guest's monotonic clock begins here: programs take a small number for "never"."""

MAX_RANDOM_BYTES = 1 << 20
RESOLUTION_NANOS = 1000

_U8, _U32, _U64, _LIST, _RECORD = 2, 6, 8, 13, 14
_SECONDS, _NANOSECONDS = ((ctypes.c_ubyte * len(name)).from_buffer_copy(name) for name in (b"seconds", b"nanoseconds"))


class Chance:
    """Random bytes from a seed: as hard to foretell as the seed, and the same for the same one."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def take(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(self._seed + self._count.to_bytes(8, "big")).digest(size)


class Host(Protocol):
    """Who a guest's clocks and chance belong to."""

    tape: Tape
    chance: Chance


_hosts: dict[int, Host] = {}
"""By thread: one guest computes in each."""


def install(root: LinkerInstance) -> None:
    """Put them into a linker that has WASI already and allows shadowing."""
    for interface, functions in _INTERFACES.items():
        with root.add_instance(f"wasi:{interface}@{VERSION}") as instance:
            for name, function in functions.items():
                add_raw(instance, name, function)


def begin(host: Host) -> None:
    """The guest of this thread asks `host` from now on. Before, its clocks stand, and chance is the system's."""
    _hosts[threading.get_ident()] = host


def end() -> None:
    _hosts.pop(threading.get_ident(), None)


def _host() -> Host | None:
    return _hosts.get(threading.get_ident())


def _now(_arguments: Any, result: Any) -> None:
    host = _host()
    _set_u64(result, (MONOTONIC_BASE_MICROS + (0 if host is None else host.tape.monotonic())) * 1000)


def _monotonic_resolution(_arguments: Any, result: Any) -> None:
    _set_u64(result, RESOLUTION_NANOS)


def _wall(_arguments: Any, result: Any) -> None:
    host = _host()
    seconds, micros = divmod(0 if host is None else host.tape.wall(), 1_000_000)
    _set_datetime(result, seconds, micros * 1000)


def _wall_resolution(_arguments: Any, result: Any) -> None:
    _set_datetime(result, 0, RESOLUTION_NANOS)


def _subscribe(_arguments: Any, _result: Any) -> None:
    """Waiting is the worker's affair; what asks the C library for it went around ours."""
    raise WasmtimeError("wasm trap: a wait that the host could not interrupt")


def _random_bytes(arguments: Any, result: Any) -> None:
    size = arguments[0].of.u64
    if size > MAX_RANDOM_BYTES:
        raise WasmtimeError(f"wasm trap: {size} random bytes at once")
    _set_bytes(result, _random(size))


def _random_u64(_arguments: Any, result: Any) -> None:
    _set_u64(result, int.from_bytes(_random(8), "big"))


def _random(size: int) -> bytes:
    host = _host()
    return os.urandom(size) if host is None else host.chance.take(size)


def _set_u64(result: Any, number: int) -> None:
    result[0].kind = _U64
    result[0].of.u64 = number


def _set_datetime(result: Any, seconds: int, nanoseconds: int) -> None:
    record = bindings.wasmtime_component_valrecord_t()
    bindings.wasmtime_component_valrecord_new_uninit(ctypes.byref(record), 2)
    first, second = record.data[0], record.data[1]
    bindings.wasm_byte_vec_new(ctypes.byref(first.name), len(_SECONDS), _SECONDS)
    bindings.wasm_byte_vec_new(ctypes.byref(second.name), len(_NANOSECONDS), _NANOSECONDS)
    first.val.kind, second.val.kind = _U64, _U32
    first.val.of.u64, second.val.of.u32 = seconds, nanoseconds
    result[0].kind = _RECORD
    result[0].of.record = record


def _set_bytes(result: Any, data: bytes) -> None:
    values = bindings.wasmtime_component_vallist_t()
    bindings.wasmtime_component_vallist_new_uninit(ctypes.byref(values), len(data))
    written = b"".join(map(_BYTE_VALUES.__getitem__, data))
    ctypes.memmove(values.data, written, len(written))
    result[0].kind = _LIST
    result[0].of.list = values


def _byte_value(byte: int) -> bytes:
    value = bindings.wasmtime_component_val_t()
    value.kind = _U8
    value.of.u8 = byte
    return bytes(value)


_BYTE_VALUES = [_byte_value(byte) for byte in range(256)]


_INTERFACES: Mapping[str, Mapping[str, Callable[[Any, Any], None]]] = {
    "clocks/monotonic-clock": {
        "now": _now,
        "resolution": _monotonic_resolution,
        "subscribe-instant": _subscribe,
        "subscribe-duration": _subscribe,
    },
    "clocks/wall-clock": {"now": _wall, "resolution": _wall_resolution},
    "random/random": {"get-random-bytes": _random_bytes, "get-random-u64": _random_u64},
}
