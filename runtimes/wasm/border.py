"""Calls across the border of a guest, both ways, of strings and numbers.

Written on wasmtime's C bindings because its Python package asks for the types of a function at every call, and makes a
class for every new length of a string. What an import raises comes out of the call in whose thread it was raised.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from wasmtime import Store, WasmtimeError
from wasmtime import _bindings as bindings
from wasmtime.component import Instance, LinkerInstance

_U32, _F64, _STRING = 6, 10, 12
_value = bindings.wasmtime_component_val_t
_raised: dict[int, Exception] = {}
"""By thread: what an import raised, on its way through WebAssembly."""


def export(instance: Instance, store: Store, name: str, *, results: int = 0) -> Callable[..., Any]:
    """A function of the guest with so many results, none or one. It raises what its imports raise, and
    WasmtimeError."""
    func = instance.get_func(store, name)
    assert func is not None, name

    def call(*arguments: str | int) -> Any:
        values, result = (_value * len(arguments))(), _value()
        try:
            for value, argument in zip(values, arguments, strict=True):
                _write(value, argument)
            error = bindings.wasmtime_component_func_call(
                ctypes.byref(func._func), store._context(), values, len(values), ctypes.byref(result), results
            )
            if error:  # type: ignore[truthy-bool]  # a null pointer is false
                trap = WasmtimeError._from_ptr(error)
                raise _raised.pop(threading.get_ident(), None) or trap
            return _read(result) if results else None
        finally:
            for value in (*values, result):
                bindings.wasmtime_component_val_delete(ctypes.byref(value))

    return call


def add_import(instance: LinkerInstance, name: str, function: Callable[..., Any]) -> None:
    """Let guests call `function`, with Python's strings and numbers."""

    def called(arguments: Any, count: int, results: Any) -> None:
        try:
            answer = function(*[_read(arguments[index]) for index in range(count)])
        except Exception as error:
            _raised[threading.get_ident()] = error
            raise
        if answer is not None:
            _write(results[0], answer)

    _add(instance, name, called)


def add_raw(instance: LinkerInstance, name: str, function: Callable[[Any, Any], None]) -> None:
    """Let guests call `function`, which reads its arguments and writes its result as C has them."""
    _add(instance, name, lambda arguments, _count, results: function(arguments, results))


def _add(instance: LinkerInstance, name: str, function: Callable[[Any, int, Any], None]) -> None:
    data, callback = name.encode(), _callback(function)
    _callbacks.append(callback)
    error = bindings.wasmtime_component_linker_instance_add_func(
        instance.ptr(), ctypes.create_string_buffer(data), len(data), callback, None, _NO_FINALIZER
    )
    if error:  # type: ignore[truthy-bool]  # a null pointer is false
        raise WasmtimeError._from_ptr(error)


def _read(value: Any) -> Any:
    kind, of = value.kind, value.of
    if kind == _STRING:
        return ctypes.string_at(of.string.data, of.string.size).decode()
    return of.f64 if kind == _F64 else of.u32 if kind == _U32 else of.s32


def _write(value: Any, given: str | int) -> None:
    if isinstance(given, int):
        value.kind, value.of.u32 = _U32, given
        return
    data, string = given.encode(), value.of.string
    bindings.wasm_byte_vec_new_uninitialized(ctypes.byref(string), len(data))
    ctypes.memmove(string.data, data, len(data))
    value.kind = _STRING


def _callback(function: Callable[[Any, int, Any], None]) -> Any:
    def called(_data: Any, _context: Any, _type: Any, arguments: Any, count: int, results: Any, _most: Any) -> Any:
        try:
            function(arguments, count, results)
        except Exception as error:  # noqa: BLE001 - an exception cannot pass through C; the guest traps
            return ctypes.addressof(_error(str(error)).contents)
        return 0

    return bindings.wasmtime_component_func_callback_t(called)


def _error(text: str) -> Any:
    return bindings.wasmtime_error_new(ctypes.create_string_buffer(text.encode(errors="replace")))


_callbacks: list[Any] = []
"""C code keeps their addresses."""
_NO_FINALIZER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(0)
