"""JSON Schemas from a Python function's signature, and the way from JSON to its arguments and back from its result."""

import functools
import inspect
import typing
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import (
    ArgsKwargs,
    CoreSchema,
    PydanticSerializationError,
    SchemaError,
    SchemaValidator,
    core_schema,
    to_jsonable_python,
)

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidInput, InvalidOutput, InvalidRequest
from gateway.tools.validation import MAX_ERRORS, path_text

_PLAIN = frozenset({str, int, bool, float, type(None)})


class _Schema(GenerateJsonSchema):
    """Without a title on every property, which tells a model nothing that the name does not."""

    # A default that has no JSON form is left out of the schema; the function still has it.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic's declaration

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        found = super().default_schema(schema)
        if "default" in found and not _fits(schema["schema"], found["default"]):
            # Such as `limit: int = "many"`: Python does not mind, but filled into the arguments it would be refused.
            del found["default"]
        return found


class CallAdapter:
    """Between JSON and one function: `arguments` on the way in, `result` on the way out."""

    def __init__(self, arguments: "TypeAdapter[Any]", result: "TypeAdapter[Any] | None", context_name: str) -> None:
        self._arguments = arguments.validator
        self._result = result
        self.context_name = context_name
        """The parameter that takes the call's context; empty when there is none."""

    def arguments(self, arguments: dict[str, JsonValue]) -> dict[str, Any]:
        """Python keyword arguments from JSON ones. Raises InvalidInput."""
        try:
            found: dict[str, Any] = self._arguments.validate_python(ArgsKwargs((), arguments))
        except ValidationError as exc:
            raise _invalid_input(exc) from exc
        return found

    def result(self, value: Any) -> JsonValue:
        """JSON from what the function returned, or from what it yielded. Raises InvalidOutput."""
        if type(value) in _PLAIN:
            return value
        try:
            if self._result is None:
                return to_jsonable_python(value)
            # A value of another type than the annotation says is for the output schema to refuse, in its own words.
            return self._result.dump_python(value, mode="json", warnings="none")
        except (PydanticSerializationError, ValueError, TypeError, AttributeError, RecursionError) as exc:
            raise InvalidOutput(
                f"a result of type {type(value).__name__} has no JSON form ({str(exc)[:200]}); "
                "return JSON types, dataclasses or pydantic models"
            ) from exc


def signature_schemas(func: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any] | None, CallAdapter]:
    """The input schema, the output schema (None: any JSON) and the adapter of `func`.

    Parameters without annotation take any JSON; `**kwargs` admits further properties. Arguments that a
    `functools.partial` binds by name cannot be given by a caller, and neither can the one annotated `ToolContext`. The
    output of a generator is the list of what it yields. Raises InvalidRequest for `*args`, positional-only parameters,
    and annotations that have no JSON form.
    """
    hints = _hints(func)
    returns = _yielded(func, hints) if is_generator(func) else hints.get("return", Any)
    context_name = _context_name(func, hints)
    try:
        arguments: TypeAdapter[Any] = TypeAdapter(_stand_in(_parameters(func, hints, context_name)))
        result: TypeAdapter[Any] | None = None if returns is Any else TypeAdapter(returns)
        input_schema = arguments.json_schema(schema_generator=_Schema)
        output_schema = result and result.json_schema(mode="serialization", schema_generator=_Schema)
    except (PydanticUserError, SchemaError, TypeError, NameError) as exc:
        raise InvalidRequest(f"an annotation of {func_name(func)} has no JSON form: {_first_line(exc)}") from exc
    input_schema.setdefault("additionalProperties", True)
    if is_generator(func):
        output_schema = _list_of(output_schema)
    return input_schema, output_schema, CallAdapter(arguments, result, context_name)


def is_generator(func: Callable[..., Any]) -> bool:
    """Whether calling it gives a generator, sync or async."""
    target = inner(func)
    target = target if inspect.isroutine(target) else type(target).__call__
    return inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)


def func_name(func: Callable[..., Any]) -> str:
    """The function's own name; a callable object's class name."""
    target = inner(func)
    return str(getattr(target, "__name__", type(target).__name__))


def description(func: Callable[..., Any]) -> str:
    """The docstring without its indentation; empty when there is none."""
    target = inner(func)
    if not inspect.isroutine(target):
        target = type(target).__call__ if type(target).__call__.__doc__ else type(target)
    return inspect.cleandoc(target.__doc__ or "")


def inner(func: Callable[..., Any]) -> Any:
    """What a `functools.partial` calls in the end."""
    while isinstance(func, functools.partial):
        func = func.func
    return func


def _hints(func: Callable[..., Any]) -> dict[str, Any]:
    target = inner(func)
    if inspect.isclass(target):
        raise InvalidRequest(f"{target.__name__} is a class; wrap it in a function")
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError) as exc:
        raise InvalidRequest(f"an annotation of {func_name(func)} cannot be resolved: {_first_line(exc)}") from exc


def _yielded(func: Callable[..., Any], hints: dict[str, Any]) -> Any:
    """`int` of `-> AsyncIterator[int]` and its like; Any when it does not say."""
    returns = hints.get("return", Any)
    items = typing.get_args(returns)
    if returns is Any or (items and issubclass(typing.get_origin(returns), Iterable | AsyncIterable)):
        return items[0] if items else Any
    raise InvalidRequest(f"{func_name(func)} is a generator; annotate it as Iterator[...] or AsyncIterator[...]")


def _list_of(schema: dict[str, Any] | None) -> dict[str, Any]:
    """The schema of a list of such items; what `$ref` points to stays at the root."""
    item = dict(schema or {})
    definitions = {"$defs": item.pop("$defs")} if "$defs" in item else {}
    return {"type": "array", "items": item, **definitions}


def _context_name(func: Callable[..., Any], hints: dict[str, Any]) -> str:
    names = [name for name, hint in hints.items() if hint is ToolContext and name != "return"]
    if len(names) > 1:
        raise InvalidRequest(f"{func_name(func)} takes a ToolContext twice: {', '.join(names)}; one is enough")
    return names[0] if names else ""


def _parameters(func: Callable[..., Any], hints: dict[str, Any], context_name: str) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"{func_name(func)} has no signature to read ({exc}); wrap it in a function") from exc
    bound = _bound(func)
    kept = [parameter for parameter in parameters if parameter.name not in bound | {context_name}]
    for parameter in kept:
        _check_parameter(func, parameter, is_bound=bool(bound))
    return [_by_name(parameter, hints.get(parameter.name, Any)) for parameter in kept]


def _bound(func: Callable[..., Any]) -> set[str]:
    """Names that the host fixed with `functools.partial`: a guest must not be able to choose them."""
    bound: set[str] = set()
    while isinstance(func, functools.partial):
        bound.update(func.keywords)
        func = func.func
    return bound


def _check_parameter(func: Callable[..., Any], parameter: inspect.Parameter, *, is_bound: bool) -> None:
    if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
        raise InvalidRequest(f"{func_name(func)} takes {parameter} by position; tools are called by name only")
    if parameter.kind is parameter.VAR_KEYWORD and is_bound:
        raise InvalidRequest(f"{func_name(func)} is bound by name and takes {parameter}; wrap it in a function")


def _by_name(parameter: inspect.Parameter, annotation: Any) -> inspect.Parameter:
    if parameter.default is None:
        annotation = annotation | None  # `limit: int = None` means it, though it does not say it
    kind = parameter.kind if parameter.kind is parameter.VAR_KEYWORD else parameter.KEYWORD_ONLY
    return parameter.replace(kind=kind, annotation=annotation)


def _stand_in(parameters: list[inspect.Parameter]) -> Any:
    """A function with these parameters that returns its arguments: pydantic validates them, the call comes later."""

    def stand_in(**arguments: Any) -> dict[str, Any]:
        return arguments

    stand_in.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(stand_in)["__signature__"] = inspect.Signature(parameters)
    return stand_in


def _fits(schema: CoreSchema, default: JsonValue) -> bool:
    try:
        SchemaValidator(schema).validate_python(default)
    except ValidationError:
        return False
    except SchemaError:
        return True  # it refers to types defined elsewhere, so it cannot be compiled alone
    return True


def _invalid_input(exc: ValidationError) -> InvalidInput:
    errors = [
        {"path": path_text(list(error["loc"])), "message": error["msg"][:300]}
        for error in exc.errors(include_url=False, include_input=False, include_context=False)[:MAX_ERRORS]
    ]
    shown = "; ".join(f"{error['path'] or 'the arguments'}: {error['message']}" for error in errors[:3])
    return InvalidInput(shown, details={"errors": errors})


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0][:300]
