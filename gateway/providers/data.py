"""Tools described as data, in TOML or JSON.

    [connections.crm]
    type = "http"
    base_url = "https://crm.example.com"
    auth = { type = "bearer", token = { env = "CRM_TOKEN" } }

    [[tools]]
    id = "crm:get_user"
    description = "One user."
    provider = { connection = "crm", method = "GET", path = "/users/{id}" }

    [[tools]]
    id = "git:log"
    provider = { type = "cli", argv = ["git", "log", "--max-count={count}"] }

Tools of one connection share it. A kind without connections has a `type` in the provider's table; one with may have its
connection there too, as a table. What else a tool has is in gateway/tools/spec.py; `docs/providers/data.md` has the
fields of each kind.
"""

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gateway.base import JsonValue
from gateway.errors import InvalidInput, InvalidRequest
from gateway.providers.builtin import BUILTIN
from gateway.providers.kinds import ProviderKind, ProviderKinds
from gateway.tools.model import Tool
from gateway.tools.spec import TOOL_SCHEMA, spec_fields
from gateway.tools.validation import SchemaValidator

KINDS = ProviderKinds(BUILTIN)
"""The kinds that this process knows."""

_SHOWN_ERRORS = 3
_PROVIDER = {"type": "object", "properties": {"connection": {"type": ["string", "object"]}, "type": {"type": "string"}}}
_DOCUMENT = {
    "type": "object",
    "properties": {
        "connections": {"type": "object", "additionalProperties": {"type": "object"}},
        "tools": {
            "type": "array",
            "items": {
                **TOOL_SCHEMA,
                "properties": {**TOOL_SCHEMA["properties"], "provider": _PROVIDER},
                "required": ["id", "provider"],
            },
        },
    },
    "required": ["tools"],
    "additionalProperties": False,
}


def read_tools(path: Path | str, kinds: ProviderKinds | None = None) -> tuple[Tool, ...]:
    """The tools of a file: TOML, or JSON where it is named so. Raises InvalidRequest, InvalidToolId."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = json.loads(text) if Path(path).suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as exc:
        raise InvalidRequest(f"the tools of {path} cannot be read: {exc}") from exc
    return tools_from(document, kinds)


def tools_from(document: JsonValue, kinds: ProviderKinds | None = None) -> tuple[Tool, ...]:
    """The tools of a document of `connections` and `tools`. Nothing is connected to. Raises InvalidRequest."""
    fields = _fitting(_DOCUMENT, document, "the document")
    maker = _Maker(KINDS if kinds is None else kinds, fields.get("connections", {}))
    return tuple(maker.tool(described) for described in fields["tools"])


class _Maker:
    """Makes the tools of one document."""

    def __init__(self, kinds: ProviderKinds, connections: Mapping[str, dict[str, Any]]) -> None:
        self._kinds = kinds
        self._connections: dict[str, _Connection] = {}
        for name, fields in connections.items():
            with _told_of(f"connection {name!r}"):
                self._connections[name] = self._connect(dict(fields))

    def tool(self, described: dict[str, Any]) -> Tool:
        spec = {name: value for name, value in described.items() if name != "provider"}
        with _told_of(f"tool {described['id']!r}"):
            tool = spec_fields(spec)
            fields = dict(described["provider"])
            connection = self._connection(fields)
            kind = connection.kind
            checked = _fitting(_object(kind.fields, kind.required), fields, "the provider")
            made = kind.make(connection.made, tool, checked)
        # The input schema is the kind's: it may have had to be closed, or to be made in the first place.
        return dataclasses.replace(made, **{name: value for name, value in tool.items() if name != "input_schema"})

    def _connection(self, provider: dict[str, Any]) -> "_Connection":
        """Takes `connection` and `type` out of a provider's table."""
        named, type_name = provider.pop("connection", {}), provider.pop("type", None)
        if not isinstance(named, str):
            return self._connect({**named, "type": type_name})
        found = self._connections.get(named)
        if found is None:
            raise InvalidRequest(f"no connection {named!r}; there are {', '.join(self._connections) or 'none'}")
        if type_name is not None:
            raise InvalidRequest(f"connection {named!r} has a type already; leave the tool's type out")
        return found

    def _connect(self, fields: dict[str, Any]) -> "_Connection":
        type_name = fields.pop("type", None)
        if not isinstance(type_name, str):
            raise InvalidRequest(f"a type is missing; there are {', '.join(self._kinds.names())}")
        kind = self._kinds.get(type_name)
        checked = _fitting(_object(kind.connection_fields, kind.connection_required), fields, "the connection")
        return _Connection(kind, None if kind.connect is None else kind.connect(checked))


class _Connection(NamedTuple):
    kind: ProviderKind
    made: Any
    """What the kind made of its fields, None where the kind has no connections."""


@contextmanager
def _told_of(what: str) -> Iterator[None]:
    try:
        yield
    except InvalidRequest as exc:
        raise InvalidRequest(f"{what}: {exc}") from exc


def _object(properties: Mapping[str, Any], required: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _fitting(schema: Mapping[str, Any], value: JsonValue, what: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = SchemaValidator(schema).validate_input(value)
    except InvalidInput as exc:
        raise InvalidRequest(f"{what}: {_words(schema, exc)}") from None  # the cause may show a secret
    return found


def _words(schema: Mapping[str, Any], misfit: InvalidInput) -> str:
    errors = misfit.details.get("errors")
    if errors is None:
        return misfit.message
    secret = {name for name, below in schema["properties"].items() if below.get("writeOnly")}
    shown = []
    for error in errors[:_SHOWN_ERRORS]:
        is_secret = error["path"].replace("[", ".").split(".")[0] in secret
        shown.append(f"{error['path'] or 'it'}: {'does not fit' if is_secret else error['message']}")
    return "; ".join(shown)
