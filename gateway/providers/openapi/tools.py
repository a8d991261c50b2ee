"""Tools from an OpenAPI document: one for each operation, called through one HttpApi."""

import keyword
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gateway.errors import InvalidRequest, InvalidToolId
from gateway.providers.http import HttpApi
from gateway.providers.openapi.arguments import Arguments, is_json
from gateway.providers.openapi.document import Document, below, flaw, unique
from gateway.providers.openapi.schema import Schemas, fits_output
from gateway.tools.model import Tool, ToolId
from gateway.tools.validation import SchemaValidator

MAX_OPERATIONS = 5000

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch")


def openapi_tools(
    source: Mapping[str, Any] | str | Path,
    api: HttpApi,
    *,
    namespace: str = "",
    only: Collection[str] | None = None,
    output_schemas: bool = True,
    timeout_seconds: float = 30.0,
) -> tuple[Tool, ...]:
    """A tool for each operation of an OpenAPI 3.0 or 3.1 document: data, its text (JSON, or YAML), or a file.

    Requests go to `api.base_url`, whatever servers the document names, with the API's own credentials: what the
    document says about security never becomes an argument. `only` picks operations, by operationId or as
    "GET /users/{id}". Without `output_schemas` results are not held against what the document says about them.

    A tool is named after the operationId, or after method and path; other characters than letters and digits become
    `_`, and names that are taken are numbered. Parameters are arguments by their own names, made Python identifiers; a
    JSON body is the argument `body`, while the fields of a form are arguments each. References are followed within the
    document only. TRACE and callbacks are left out.

    Raises InvalidRequest with a JSON Pointer to the flaw, MissingExtra for YAML without its library.
    """
    document = Document(source)
    importer = _Importer(document, api, namespace, output_schemas=output_schemas, timeout_seconds=timeout_seconds)
    operations = list(_operations(document))
    if len(operations) > MAX_OPERATIONS:
        raise InvalidRequest(f"the OpenAPI document has {len(operations)} operations, over {MAX_OPERATIONS}; cut it")
    if only is not None:
        operations = _picked(operations, only)
    return tuple(importer.tool(operation) for operation in operations)


class _Operation(NamedTuple):
    method: str
    path: str
    node: dict[str, Any]
    pointer: str
    parameters: list[tuple[Any, str]]
    """Those of the path, then its own, each with its pointer."""

    @property
    def id(self) -> str:
        return str(self.node.get("operationId") or "")

    @property
    def shown(self) -> str:
        return f"{self.method} {self.path}"


def _operations(document: Document) -> Iterator[_Operation]:
    for path, item in document.mapping(document.root.get("paths"), "/paths").items():
        if path.startswith("x-"):
            continue
        if not path.startswith("/"):
            raise flaw(below("/paths", path), "must begin with /")
        found, pointer = document.followed(item, below("/paths", path))
        shared = _parameters(document, found, pointer)
        for method in _METHODS:
            if method in found:
                where = below(pointer, method)
                node = document.mapping(found[method], where)
                yield _Operation(method.upper(), path, node, where, shared + _parameters(document, node, where))


def _parameters(document: Document, node: dict[str, Any], pointer: str) -> list[tuple[Any, str]]:
    where = below(pointer, "parameters")
    return [
        (each, below(where, number)) for number, each in enumerate(document.sequence(node.get("parameters"), where))
    ]


def _picked(operations: list[_Operation], only: Collection[str]) -> list[_Operation]:
    if isinstance(only, str):
        raise InvalidRequest(f"only is several operations, not one text; pass [{only!r}]")
    known = {name for operation in operations for name in (operation.id, operation.shown)}
    unknown = sorted(set(only) - known)
    if unknown:
        raise InvalidRequest(f"the OpenAPI document has no operation {', '.join(unknown)[:200]}")
    return [operation for operation in operations if operation.id in only or operation.shown in only]


class _Importer:
    """What all tools of one document share."""

    def __init__(
        self, document: Document, api: HttpApi, namespace: str, *, output_schemas: bool, timeout_seconds: float
    ) -> None:
        self._document = document
        self._api = api
        self._namespace = namespace
        self._output_schemas = output_schemas
        self._timeout_seconds = timeout_seconds
        self._sent = Schemas(document, "request")
        self._received = Schemas(document, "response")
        self._keys = _keys(document)
        self._taken: set[str] = set()

    def tool(self, operation: _Operation) -> Tool:
        arguments = Arguments(self._document, self._sent, self._keys)
        for node, pointer in operation.parameters:
            arguments.add_parameter(node, pointer)
        body = arguments.add_body(operation.node.get("requestBody"), below(operation.pointer, "requestBody"))
        input_schema = self._sent.complete(arguments.schema())
        output_schema = self._output_schema(operation) if self._output_schemas else None
        node = operation.node
        try:
            tool = self._api.tool(
                str(ToolId(self._name(operation), self._namespace)),
                operation.method,
                arguments.path(operation.path),
                query=arguments.query,
                headers=arguments.headers,
                cookies=arguments.cookies,
                body=body,
                input_schema=input_schema,
                output_schema=output_schema,
                description=_description(node),
                title=str(node.get("summary") or "")[:200],
                tags=tuple(map(str, self._document.sequence(node.get("tags"), below(operation.pointer, "tags")))),
                timeout_seconds=self._timeout_seconds,
            )
            SchemaValidator(input_schema)
            if output_schema is not None:
                SchemaValidator(output_schema)
        except InvalidRequest as exc:
            raise flaw(operation.pointer, f"makes no tool: {exc}") from exc
        return tool

    def _name(self, operation: _Operation) -> str:
        wanted = re.sub(r"[^A-Za-z0-9]+", "_", operation.id or operation.shown.lower()).strip("_") or "operation"
        name = unique(_reachable(wanted[:100]), self._taken)
        self._taken.add(name)
        return name

    def _output_schema(self, operation: _Operation) -> dict[str, Any] | None:
        """What fits every success; None when something other than JSON may come, or the schema is very large."""
        responses = self._document.mapping(operation.node.get("responses"), below(operation.pointer, "responses"))
        schemas: list[dict[str, Any]] = []
        for status, node in responses.items():
            if not re.fullmatch(r"2(\d\d|XX)", status) or operation.method == "HEAD":
                continue
            found, pointer = self._document.followed(node, below(operation.pointer, "responses", status))
            schema = self._response_schema(found, pointer)
            if schema is None:
                return None
            if schema not in schemas:
                schemas.append(schema)
        if not schemas:
            return None
        complete = self._received.complete(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})
        return complete if fits_output(complete) else None

    def _response_schema(self, node: dict[str, Any], pointer: str) -> dict[str, Any] | None:
        content = self._document.mapping(node.get("content"), below(pointer, "content"))
        if not content:
            return {"type": "null"}
        if len(content) > 1:
            return None
        media_type, media = next(iter(content.items()))
        where = below(pointer, "content", media_type)
        schema = self._document.mapping(media, where).get("schema")
        if not is_json(media_type) or schema is None:
            return None
        converted = self._received.converted(schema, below(where, "schema"))
        return converted if isinstance(converted, dict) else None


def _keys(document: Document) -> frozenset[tuple[str, str]]:
    """Parameters that are credentials, which the host has: (in, name in lower case)."""
    components = document.mapping(document.root.get("components"), "/components")
    schemes = document.mapping(components.get("securitySchemes"), "/components/securitySchemes")
    found = (document.followed(node, below("/components/securitySchemes", name))[0] for name, node in schemes.items())
    return frozenset((str(s.get("in")), str(s.get("name")).lower()) for s in found if s.get("type") == "apiKey")


def _description(node: dict[str, Any]) -> str:
    texts = [str(node[key]).strip() for key in ("summary", "description") if node.get(key)]
    return "\n\n".join(["Deprecated.", *texts] if node.get("deprecated") is True else texts)


def _reachable(name: str) -> str:
    """The name, or one that the guest's `tools` has no other use for."""
    try:
        ToolId(name).check_reachable()
    except InvalidToolId:
        return f"{name}_operation"
    return f"{name}_" if keyword.iskeyword(name) else name
