"""The JSON face of a gateway: an operation's name and arguments in, its reply or error out, as bytes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, cast

from gateway import errors
from gateway.base import MAX_RESULT_BYTES, CallOutcome, ChainStep, DetailLevel, Gateway, JsonValue, ParallelCall
from gateway.chain import check_batch
from gateway.errors import InvalidInput, InvalidOutput, PayloadTooLarge, ProtocolError, ToolError
from gateway.payload import MAX_NESTING, NotJsonError, decode, encode, error_json

MAX_OPERATION_BYTES = MAX_RESULT_BYTES
"""Largest arguments of one operation, as JSON. One call's own bound is lower; this is for chains and batches."""

_WRAPPING = 4
"""Levels that an operation and its reply put around a tool's arguments and result."""

Fields = dict[str, Any]


async def perform(gateway: Gateway, operation: str, arguments: bytes) -> bytes:
    """Do what a guest asks for. `arguments` are a JSON object, the reply is JSON:

    ===================  =========================================================  =================================
    operation            arguments (those with a default may be left out)           reply
    ===================  =========================================================  =================================
    run_tool             tool_id, arguments = {}                                    the tool's result
    run_chain            steps: [{tool_id, arguments = {}, use_previous = false,    {value, steps: [{tool_id, ok,
                         stop_on_error = true}]}                                    skipped, value, error,
                                                                                    duration_seconds}]}
    run_parallel         calls: [{tool_id, arguments = {}}]                         [{tool_id, ok, value, error,
                                                                                    duration_seconds}]
    search_tools         query, limit = 10                                          [{id, name, namespace, description,
                                                                                    score}]
    describe_tool        tool_id, level = "summary"                                 an object
    list_namespaces                                                                 [text]
    list_tool_examples   tool_id, limit = 5                                         [{title, arguments, result_hint}]
    ===================  =========================================================  =================================

    Raises the operation's ToolErrors; InvalidInput and PayloadTooLarge for arguments that cannot be decoded.
    """
    handler = _OPERATIONS.get(operation)
    if handler is None:
        raise InvalidInput(f"unknown operation {operation[:100]!r}; there are {', '.join(_OPERATIONS)}")
    reply = await handler(gateway, _decoded(arguments))
    try:
        return encode(reply, MAX_NESTING + _WRAPPING)
    except NotJsonError as exc:
        raise InvalidOutput(f"the reply to {operation} is not JSON: {exc}") from exc


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


async def _run_tool(gateway: Gateway, fields: Fields) -> JsonValue:
    tool_id = _tool_id(fields)
    arguments = fields.pop("arguments", {})
    _check_empty(fields)
    # Of any type: what is no object is for the gateway to refuse, which records it.
    return await gateway.run_tool(tool_id, arguments)


async def _run_chain(gateway: Gateway, fields: Fields) -> JsonValue:
    steps = [_step(item) for item in _items(fields, "steps")]
    _check_empty(fields)
    result = await gateway.run_chain(steps)
    return {"value": result.value, "steps": [_outcome(step) | {"skipped": step.skipped} for step in result.steps]}


async def _run_parallel(gateway: Gateway, fields: Fields) -> JsonValue:
    calls = [_parallel_call(item) for item in _items(fields, "calls")]
    _check_empty(fields)
    return [_outcome(outcome) for outcome in await gateway.run_parallel(calls)]


async def _search_tools(gateway: Gateway, fields: Fields) -> JsonValue:
    query = _field(fields, "query", str)
    limit = _field(fields, "limit", int, 10)
    _check_empty(fields)
    return [asdict(found) for found in await gateway.search_tools(query, limit)]


async def _describe_tool(gateway: Gateway, fields: Fields) -> JsonValue:
    tool_id = _tool_id(fields)
    level = _field(fields, "level", str, "summary")
    _check_empty(fields)
    return await gateway.describe_tool(tool_id, cast(DetailLevel, level))


async def _list_namespaces(gateway: Gateway, fields: Fields) -> JsonValue:
    _check_empty(fields)
    return list(await gateway.list_namespaces())


async def _list_tool_examples(gateway: Gateway, fields: Fields) -> JsonValue:
    tool_id = _tool_id(fields)
    limit = _field(fields, "limit", int, 5)
    _check_empty(fields)
    return list(await gateway.list_tool_examples(tool_id, limit))


_OPERATIONS: Mapping[str, Callable[[Gateway, Fields], Awaitable[JsonValue]]] = {
    "run_tool": _run_tool,
    "run_chain": _run_chain,
    "run_parallel": _run_parallel,
    "search_tools": _search_tools,
    "describe_tool": _describe_tool,
    "list_namespaces": _list_namespaces,
    "list_tool_examples": _list_tool_examples,
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


def _step(item: JsonValue) -> ChainStep:
    fields = _object(item, "a step")
    tool_id = _tool_id(fields)
    arguments = fields.pop("arguments", {})
    use_previous = _field(fields, "use_previous", bool, False)  # noqa: FBT003 - the default, as in ChainStep
    stop_on_error = _field(fields, "stop_on_error", bool, True)  # noqa: FBT003
    _check_empty(fields)
    return ChainStep(tool_id, arguments, use_previous=use_previous, stop_on_error=stop_on_error)


def _parallel_call(item: JsonValue) -> ParallelCall:
    fields = _object(item, "a call")
    tool_id = _tool_id(fields)
    arguments = fields.pop("arguments", {})
    _check_empty(fields)
    return ParallelCall(tool_id, arguments)


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


def _outcome(outcome: CallOutcome) -> Fields:
    return {
        "tool_id": outcome.tool_id,
        "ok": outcome.ok,
        "value": outcome.value,
        "error": outcome.error,
        "duration_seconds": outcome.duration_seconds,
    }
