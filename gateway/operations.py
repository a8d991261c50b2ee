"""The JSON face of a gateway: an operation's name and arguments in, its reply or error out, as bytes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple, cast

from gateway import errors
from gateway.base import (
    MAX_RESULT_BYTES,
    ChainStep,
    DetailLevel,
    Gateway,
    JsonValue,
    ParallelCall,
    ToolEvents,
)
from gateway.chain import check_batch, outcome_json, step_json
from gateway.errors import InvalidInput, InvalidOutput, PayloadTooLarge, ProtocolError, ToolError
from gateway.payload import MAX_NESTING, Malformed, NotJsonError, decode, encode, error_json, printable
from gateway.streaming import Streams

MAX_OPERATION_BYTES = MAX_RESULT_BYTES
"""Largest arguments of one operation, as JSON. One call's own bound is lower; this is for chains and batches."""

MAX_MALFORMED = 500
"""Characters that are kept of why arguments are malformed."""

_WRAPPING = 4
"""Levels that an operation and its reply put around a tool's arguments and result."""

Fields = dict[str, Any]


async def perform(gateway: Gateway, operation: str, arguments: bytes, streams: Streams | None = None) -> bytes:
    """Do what a guest asks for. `arguments` are a JSON object, the reply is JSON:

    ===================  =========================================================  =================================
    operation            arguments (those with a default may be left out)           reply
    ===================  =========================================================  =================================
    run_tool             tool_id, arguments = {}, timeout_seconds                   the tool's result
    run_chain            steps: [{tool_id, arguments = {}, use_previous = false,    {value, steps: [{tool_id, ok,
                         stop_on_error = true, mapping = {}, timeout_seconds}],     skipped, value, error,
                         timeout_seconds                                            duration_seconds}]}
    run_parallel         calls: [{tool_id, arguments = {}, timeout_seconds}],       [{tool_id, ok, value, error,
                         max_concurrent, timeout_seconds                            duration_seconds}]
    search_tools         query, limit = 10, namespace, tags = []                    [{id, name, namespace, description,
                                                                                    score}]
    list_tools           limit = 100, cursor, query = "", namespace, tags = []      {tools: [as above], cursor}
    describe_tool        tool_id, level = "summary"                                 an object
    list_namespaces                                                                 [text]
    list_tool_examples   tool_id, limit = 5                                         [{title, arguments, result_hint}]
    open_stream          as run_tool, or steps as run_chain                         the number of a stream
    read_stream          stream                                                     its next events: [{kind, data,
                                                                                    error}]; `done` or `error` ends it
    close_stream         stream                                                     null
    ===================  =========================================================  =================================

    Where a guest has arguments that are no JSON, it gives `malformed` in their place, a text that says why, and that
    call is refused. The last three operations are a guest's way to `stream_tool` and `stream_chain`: it asks for events
    when it wants them, and `streams` holds what it has begun. Raises the operation's ToolErrors; InvalidInput and
    PayloadTooLarge for arguments that cannot be decoded.
    """
    handler = _OPERATIONS.get(operation)
    if handler is None:
        raise InvalidInput(f"unknown operation {operation[:100]!r}; there are {', '.join(_OPERATIONS)}")
    reply = await handler(_Ask(gateway, streams, _decoded(arguments)))
    try:
        return encode(reply, MAX_NESTING + _WRAPPING)
    except NotJsonError as exc:
        raise InvalidOutput(f"the reply to {operation} is not JSON: {exc}") from exc


def begun_call(gateway: Gateway, fields: Fields) -> ToolEvents:
    """The stream of what `run_tool` would be asked for with these fields, which are used up. Raises InvalidInput."""
    call = _call(fields)
    return gateway.stream_tool(call.tool_id, call.arguments, timeout_seconds=call.timeout_seconds)


def begun_chain(gateway: Gateway, fields: Fields) -> ToolEvents:
    """The same of `run_chain`."""
    steps, timeout_seconds = _chain(fields)
    return gateway.stream_chain(steps, timeout_seconds=timeout_seconds)


def encode_error(error: ToolError) -> bytes:
    """JSON {code, message, retryable, details}; never raises, whatever a tool has put into its error."""
    return encode(error_json(error))


def decode_error(data: bytes) -> ToolError:
    """The error that `encode_error` encoded, of the same class; of class ToolError when no class of ours has its code.

    Raises ProtocolError.
    """
    try:
        fields = decode(data)
    except NotJsonError as exc:
        raise ProtocolError(f"an error that is not JSON: {exc}") from exc
    match fields:
        case {"code": str(code), "message": str(message), "retryable": bool(retryable), "details": dict(details)}:
            return _error(code, message, retryable=retryable, details=details)
    raise ProtocolError("an error without code, message, retryable and details")


def _error(code: str, message: str, *, retryable: bool, details: Fields) -> ToolError:
    kind = _ERRORS.get(code, ToolError)
    error = kind.__new__(kind)
    ToolError.__init__(error, message, details=details, retryable=retryable)  # the class's own would write a message
    if error.code != code:
        error.code = code
    return error


class _Ask(NamedTuple):
    """One operation: who does it, and what was asked. Handlers take their fields out; what is left over is unknown."""

    gateway: Gateway
    streams: Streams | None
    fields: Fields


async def _run_tool(ask: _Ask) -> JsonValue:
    call = _call(ask.fields)
    # The arguments are of any type: what is no object is for the gateway to refuse, which records it.
    return await ask.gateway.run_tool(call.tool_id, call.arguments, timeout_seconds=call.timeout_seconds)


async def _run_chain(ask: _Ask) -> JsonValue:
    steps, timeout_seconds = _chain(ask.fields)
    result = await ask.gateway.run_chain(steps, timeout_seconds=timeout_seconds)
    return {"value": result.value, "steps": [step_json(step) for step in result.steps]}


async def _run_parallel(ask: _Ask) -> JsonValue:
    calls = [_call(_object(item, "a call")) for item in _items(ask.fields, "calls")]
    timeout_seconds, most = _seconds(ask.fields), _maybe(ask.fields, "max_concurrent", int)
    _check_empty(ask.fields)
    outcomes = await ask.gateway.run_parallel(calls, max_concurrent=most, timeout_seconds=timeout_seconds)
    return [outcome_json(outcome) for outcome in outcomes]


async def _search_tools(ask: _Ask) -> JsonValue:
    query = _field(ask.fields, "query", str)
    limit = _field(ask.fields, "limit", int, 10)
    namespace, tags = _filters(ask.fields)
    return [asdict(found) for found in await ask.gateway.search_tools(query, limit, namespace=namespace, tags=tags)]


async def _list_tools(ask: _Ask) -> JsonValue:
    limit = _field(ask.fields, "limit", int, 100)
    cursor, query = _maybe(ask.fields, "cursor", str), _field(ask.fields, "query", str, "")
    namespace, tags = _filters(ask.fields)
    page = await ask.gateway.list_tools(limit, cursor, query=query, namespace=namespace, tags=tags)
    return {"tools": [asdict(tool) for tool in page.tools], "cursor": page.cursor}


async def _describe_tool(ask: _Ask) -> JsonValue:
    tool_id = _tool_id(ask.fields)
    level = _field(ask.fields, "level", str, "summary")
    _check_empty(ask.fields)
    return await ask.gateway.describe_tool(tool_id, cast(DetailLevel, level))


async def _list_namespaces(ask: _Ask) -> JsonValue:
    _check_empty(ask.fields)
    return list(await ask.gateway.list_namespaces())


async def _list_tool_examples(ask: _Ask) -> JsonValue:
    tool_id = _tool_id(ask.fields)
    limit = _field(ask.fields, "limit", int, 5)
    _check_empty(ask.fields)
    return list(await ask.gateway.list_tool_examples(tool_id, limit))


async def _open_stream(ask: _Ask) -> JsonValue:
    begun = begun_chain if "steps" in ask.fields else begun_call
    return _streams(ask).open(lambda: begun(ask.gateway, ask.fields))


async def _read_stream(ask: _Ask) -> JsonValue:
    number = _field(ask.fields, "stream", int)
    _check_empty(ask.fields)
    return [asdict(event) for event in await _streams(ask).read(number)]


async def _close_stream(ask: _Ask) -> JsonValue:
    number = _field(ask.fields, "stream", int)
    _check_empty(ask.fields)
    await _streams(ask).close(number)


_OPERATIONS: Mapping[str, Callable[[_Ask], Awaitable[JsonValue]]] = {
    "run_tool": _run_tool,
    "run_chain": _run_chain,
    "run_parallel": _run_parallel,
    "search_tools": _search_tools,
    "list_tools": _list_tools,
    "describe_tool": _describe_tool,
    "list_namespaces": _list_namespaces,
    "list_tool_examples": _list_tool_examples,
    "open_stream": _open_stream,
    "read_stream": _read_stream,
    "close_stream": _close_stream,
}

_ERRORS: Mapping[str, type[ToolError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ToolError)
}


def _decoded(arguments: bytes) -> Fields:
    if len(arguments) > MAX_OPERATION_BYTES:
        raise PayloadTooLarge("the operation's arguments", len(arguments), MAX_OPERATION_BYTES)
    try:
        fields = decode(arguments, MAX_NESTING + _WRAPPING)
    except NotJsonError as exc:
        raise InvalidInput(f"the operation's arguments are not JSON: {exc}") from exc
    return _object(fields, "the operation's arguments")


def _object(value: JsonValue, what: str) -> Fields:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be an object, not {type(value).__name__}")
    return value


def _items(fields: Fields, name: str) -> list[JsonValue]:
    items: list[JsonValue] = _field(fields, name, list)
    check_batch(len(items))
    return items


def _chain(fields: Fields) -> tuple[list[ChainStep], float | None]:
    steps, timeout_seconds = [_step(item) for item in _items(fields, "steps")], _seconds(fields)
    _check_empty(fields)
    return steps, timeout_seconds


def _step(item: JsonValue) -> ChainStep:
    fields = _object(item, "a step")
    use_previous = _field(fields, "use_previous", bool, False)  # noqa: FBT003 - the default, as in ChainStep
    stop_on_error = _field(fields, "stop_on_error", bool, True)  # noqa: FBT003
    mapping = _field(fields, "mapping", dict, {})
    if not all(isinstance(pointer, str) for pointer in mapping.values()):
        raise InvalidInput("'mapping' must be an object of JSON Pointers by argument name")
    call = _call(fields)
    return ChainStep(call.tool_id, call.arguments, use_previous, stop_on_error, mapping, call.timeout_seconds)


def _call(fields: Fields) -> ParallelCall:
    tool_id = _tool_id(fields)
    arguments: JsonValue = fields.pop("arguments", {})
    if "malformed" in fields:
        arguments = Malformed(printable(_field(fields, "malformed", str), MAX_MALFORMED))
    timeout_seconds = _seconds(fields)
    _check_empty(fields)
    return ParallelCall(tool_id, arguments, timeout_seconds)


def _seconds(fields: Fields) -> float | None:
    value: float | None = fields.pop("timeout_seconds", None)
    if value is not None and type(value) not in (int, float):
        raise InvalidInput(f"'timeout_seconds' must be a number, not {type(value).__name__}")
    return value


def _filters(fields: Fields) -> tuple[str | None, list[str]]:
    """The last fields of a search or a list."""
    namespace, tags = _maybe(fields, "namespace", str), _field(fields, "tags", list, [])
    _check_empty(fields)
    if not all(isinstance(tag, str) for tag in tags):
        raise InvalidInput("'tags' must be a list of text")
    return namespace, tags


def _streams(ask: _Ask) -> Streams:
    if ask.streams is None:
        raise InvalidInput("streams are read over the stream that a guest is attached by")
    return ask.streams


def _maybe(fields: Fields, name: str, kind: type) -> Any:
    """A field that may be left out, or null."""
    if fields.get(name) is None:
        fields.pop(name, None)
        return None
    return _field(fields, name, kind)


def _tool_id(fields: Fields) -> str:
    found: str = _field(fields, "tool_id", str)
    return found


def _field(fields: Fields, name: str, kind: type, default: Any = None) -> Any:
    """Take a field out; what is left over in the end is unknown."""
    value = fields.pop(name, default)
    # Not isinstance: true is no number here.
    if type(value) is not kind:
        given = "it is missing" if value is None else f"not {type(value).__name__}"
        raise InvalidInput(f"{name!r} must be of type {kind.__name__}, {given}")
    return value


def _check_empty(fields: Fields) -> None:
    if fields:
        raise InvalidInput(f"unknown field {next(iter(fields))[:100]!r}; leave it out")
