"""Tools written down: JSON objects that say all of a tool but its provider, and that can be read back."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.base import JsonValue
from gateway.errors import InvalidInput, InvalidRequest
from gateway.policies.base import Policies
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.providers.base import Provider
from gateway.tools.model import Tool, ToolExample, ToolId, ToolSpec
from gateway.tools.parameters import input_schema_of, parameters_from_json
from gateway.tools.validation import SchemaValidator

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_HINT = {"type": "boolean"}

TOOL_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "title": _TEXT,
        "version": _TEXT,
        "description": _TEXT,
        "notes": _TEXT,
        "tags": _TEXTS,
        "roles": _TEXTS,
        "resource": _TEXT,
        "policies": {"type": "object"},
        "parameters": {"type": "array"},
        "input_schema": {"type": "object"},
        "output_schema": {"type": "object"},
        "timeout_seconds": {"type": "number", "exclusiveMinimum": 0},
        "read_only": _HINT,
        "destructive": _HINT,
        "idempotent": _HINT,
        "open_world": _HINT,
        "in_doubt": {"enum": ["fail", "ask", "retry"]},
        "examples": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"title": _TEXT, "arguments": {"type": "object"}, "result_hint": _TEXT},
                "required": ["title"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["id"],
    "additionalProperties": False,
}
"""The JSON Schema of a written tool. `id` is name, namespace:name or namespace:name:version, and `version` may stand by
itself: it has to where there is no namespace. The arguments are described by `parameters` (as in
gateway/tools/parameters.py) or by `input_schema`, and `policies` are configs by slot
(as in gateway/policies/kinds.py)."""

_VALIDATOR = SchemaValidator(TOOL_SCHEMA)


def spec_of(tool: Tool) -> ToolSpec:
    """All of `tool` but its provider."""
    return ToolSpec(**_fields(tool))


def with_provider(spec: ToolSpec, provider: Provider) -> Tool:
    """The tool that `spec` describes, answered by `provider`."""
    return Tool(**_fields(spec), provider=provider)


def spec_json(spec: ToolSpec) -> dict[str, JsonValue]:
    """A JSON object that `spec_from_json` reads: the id, the input schema, and what is not at its default."""
    given = {field.name: getattr(spec, field.name) for field in dataclasses.fields(ToolSpec)}
    told = {field.name for field in dataclasses.fields(ToolSpec) if given[field.name] != field.default}
    version = {} if spec.id.namespace or not spec.id.version else {"version": spec.id.version}
    return {name: _written(value) for name, value in given.items() if name in told} | version


def spec_from_json(written: Mapping[str, JsonValue]) -> ToolSpec:
    """What `spec_json` wrote, or what somebody wrote in its place. Raises InvalidRequest, InvalidToolId."""
    return ToolSpec(**{"input_schema": input_schema_of(None, None), **spec_fields(written)})


def spec_fields(written: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The fields of the ToolSpec that is described. `input_schema` is among them where arguments are described."""
    try:
        fields = dict(_VALIDATOR.validate_input(dict(written)))
    except InvalidInput as exc:
        raise InvalidRequest(exc.message) from exc
    fields["id"] = _id(fields["id"], fields.pop("version", ""))
    if "parameters" in fields:
        parameters = parameters_from_json(fields.pop("parameters"))
        fields["input_schema"] = input_schema_of(parameters, fields.get("input_schema"))
    for name, read in _READERS:
        if name in fields:
            fields[name] = read(fields[name])
    return fields


def _id(text: str, version: str) -> ToolId:
    found = ToolId.parse(text)
    if found.version and version not in ("", found.version):
        raise InvalidRequest(f"version {version!r} is not that of the id {text!r}; leave one of them out")
    return dataclasses.replace(found, version=found.version or version)


def _fields(spec: ToolSpec) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(ToolSpec)}


def _written(value: Any) -> JsonValue:
    match value:
        case ToolId():
            return str(value)
        case ToolExample():
            return dataclasses.asdict(value)
        case frozenset():
            return sorted(value)
        case Policies():
            return policies_json(value)
        case tuple():
            return [_written(item) for item in value]
    return value


def _examples(written: Iterable[Mapping[str, Any]]) -> tuple[ToolExample, ...]:
    return tuple(ToolExample(**example) for example in written)


_READERS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("tags", tuple),
    ("roles", frozenset),
    ("examples", _examples),
    ("policies", policies_from_json),
)
