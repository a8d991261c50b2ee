"""The arguments of one operation of an OpenAPI document, and where in the request each of them goes."""

import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.providers.http.body import Binary, Body, Form, Json, Multipart, Text
from gateway.providers.http.template import Style, Styled
from gateway.providers.openapi.document import Document, below, flaw, unique
from gateway.providers.openapi.schema import Schemas

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_NOT_ARGUMENTS = frozenset({"accept", "authorization", "content-type"})
"""Headers that OpenAPI itself excludes from parameters."""

_STYLES: dict[tuple[Any, bool], Style] = {
    ("form", True): "spread",
    ("form", False): "comma",
    ("spaceDelimited", False): "space",
    ("pipeDelimited", False): "pipe",
    ("spaceDelimited", True): "repeat",
    ("pipeDelimited", True): "repeat",
    ("deepObject", True): "deep",
    ("deepObject", False): "deep",
}
_BASE64 = {"type": "string", "contentEncoding": "base64", "description": "bytes, in base64"}
_FORM, _MULTIPART, _TEXT = 2, 3, 4
_MAX_COMPOSED = 10


@dataclass
class Arguments:
    """The arguments of one operation, and where each of them goes."""

    document: Document
    schemas: Schemas
    keys: frozenset[tuple[str, str]]
    properties: dict[str, Any] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    query: dict[str, str | Styled] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    _names: dict[tuple[str, str], str] = field(default_factory=dict)
    """Argument names by (in, name)."""

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": False,
        }

    def path(self, path: str) -> str:
        """The document's path as a template of ours."""

        def argument(found: re.Match[str]) -> str:
            name = self._names.get(("path", found[1]))
            if name is None:
                raise flaw(below("/paths", path), f"has no path parameter {found[1]!r}")
            return "{" + name + "}"

        return _PLACEHOLDER.sub(argument, path)

    def add_parameter(self, node: Any, pointer: str) -> None:
        parameter, pointer = self.document.followed(node, pointer)
        name, where = parameter.get("name"), parameter.get("in")
        if not isinstance(name, str) or not name or where not in ("path", "query", "header", "cookie"):
            raise flaw(pointer, "must have a name, and be in path, query, header or cookie")
        if (where, name.lower()) in self.keys or (where == "header" and name.lower() in _NOT_ARGUMENTS):
            return
        style, schema = self._parameter(parameter, pointer)
        argument = self._names.get((where, name)) or self._free(name, where)  # an operation's own replaces the path's
        self._names[where, name] = argument
        self._add(
            argument, _described(schema, parameter), required=where == "path" or parameter.get("required") is True
        )
        match where:
            case "query":
                self.query[name] = Styled("{" + argument + "}", style)
            case "header":
                self.headers[name] = "{" + argument + "}"
            case "cookie":
                self.cookies[name] = "{" + argument + "}"

    def add_body(self, node: Any, pointer: str) -> Body | None:
        """The body's arguments, and how it is made from them."""
        if node is None:
            return None
        found, pointer = self.document.followed(node, pointer)
        content = self.document.mapping(found.get("content"), below(pointer, "content"))
        if not content:
            raise flaw(pointer, "must have content")
        media_type = min(content, key=_preference)
        where = below(pointer, "content", media_type)
        schema = self.document.mapping(content[media_type], where).get("schema", {})
        required = found.get("required") is True
        if _preference(media_type) in (_FORM, _MULTIPART):
            return self._form(schema, below(where, "schema"), media_type, required=required)
        name = self._free("body", "body")
        placeholder = "{" + name + "}"
        if is_json(media_type):
            self._add(name, self.schemas.converted(schema, below(where, "schema")), required=required)
            return Json(placeholder, media_type if "*" not in media_type else "application/json")
        if _preference(media_type) == _TEXT:
            self._add(name, {"type": "string"}, required=required)
            return Text(placeholder, media_type if "*" not in media_type else "text/plain")
        self._add(name, dict(_BASE64), required=required)
        return Binary(name, media_type if "*" not in media_type else "application/octet-stream")

    def _parameter(self, parameter: dict[str, Any], pointer: str) -> tuple[Style, Any]:
        """How it is written, and its schema."""
        content = self.document.mapping(parameter.get("content"), below(pointer, "content"))
        if content:
            media_type, media = next(iter(content.items()))
            where = below(pointer, "content", media_type)
            if not is_json(media_type) or parameter["in"] != "query":
                raise flaw(where, "is not supported: only the query may have JSON in a parameter")
            return "json", self.schemas.converted(self.document.mapping(media, where).get("schema", {}), where)
        style = str(parameter.get("style", "form" if parameter["in"] in ("query", "cookie") else "simple"))
        explode = parameter.get("explode", style == "form")
        plain: Style = "repeat"
        written = _STYLES.get((style, explode is True)) if parameter["in"] == "query" else plain
        if written is None or (parameter["in"] in ("path", "header") and style != "simple"):
            raise flaw(below(pointer, "style"), f"{style[:50]!r} is not supported in {parameter['in']}")
        return written, self.schemas.converted(parameter.get("schema", {}), below(pointer, "schema"))

    def _form(self, schema: Any, pointer: str, media_type: str, *, required: bool) -> Body:
        parts = list(self._composed(schema, pointer))
        needed = [
            name
            for part, where in parts
            for name in self.document.sequence(part.get("required"), below(where, "required"))
        ]
        fields = {
            key: (node, below(where, "properties", key))
            for part, where in parts
            for key, node in self.document.mapping(part.get("properties"), below(where, "properties")).items()
        }
        texts: dict[str, str] = {}
        files: dict[str, str] = {}
        for key, (node, where) in fields.items():
            if isinstance(node, dict) and node.get("readOnly") is True:
                continue
            name = self._free(key, "field")
            is_file = _is_file(self.document, node, where)
            converted = dict(_BASE64) if is_file else self.schemas.converted(node, where)
            self._add(name, converted, required=required and key in needed)
            (files if is_file else texts)[key] = name
        templates = {key: "{" + name + "}" for key, name in texts.items()}
        if _preference(media_type) == _FORM and not files:
            return Form(templates)
        return Multipart(templates, files)

    def _composed(self, schema: Any, pointer: str, depth: int = 0) -> Iterator[tuple[dict[str, Any], str]]:
        """The schema and all that it is composed of."""
        if depth > _MAX_COMPOSED:
            raise flaw(pointer, f"is composed of itself, or in more than {_MAX_COMPOSED} layers")
        found, pointer = self.document.followed(schema, pointer)
        yield found, pointer
        for number, part in enumerate(self.document.sequence(found.get("allOf"), below(pointer, "allOf"))):
            yield from self._composed(part, below(pointer, "allOf", number), depth + 1)

    def _add(self, name: str, schema: Any, *, required: bool) -> None:
        self.properties[name] = schema
        if required and name not in self.required:
            self.required.append(name)

    def _free(self, name: str, where: str) -> str:
        """A Python identifier for it that no other argument has."""
        plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or where
        if keyword.iskeyword(plain) or plain[0].isdigit():
            plain = f"{plain}_" if keyword.iskeyword(plain) else f"_{plain}"
        if plain in self.properties:
            plain = f"{plain}_{where}"
        return unique(plain, self.properties)


def _preference(media_type: str) -> int:
    """JSON is the best, then forms, text, bytes."""
    plain = media_type.partition(";")[0].strip().lower()
    if is_json(plain):
        return 0 if plain == "application/json" else 1
    kinds = {"application/x-www-form-urlencoded": _FORM, "multipart/form-data": _MULTIPART}
    is_text = plain.startswith("text/") or plain.endswith(("+xml", "/xml"))
    return kinds.get(plain, _TEXT if is_text else 5)


def is_json(media_type: str) -> bool:
    plain = media_type.partition(";")[0].strip().lower()
    return plain in ("application/json", "*/*", "application/*") or plain.endswith("+json")


def _is_file(document: Document, node: Any, pointer: str) -> bool:
    found, pointer = document.followed(node, pointer) if isinstance(node, dict) else ({}, pointer)
    if found.get("type") == "array":
        return _is_file(document, found.get("items", {}), below(pointer, "items"))
    return found.get("format") == "binary" or "contentMediaType" in found


def _described(schema: Any, parameter: dict[str, Any]) -> Any:
    said = {key: parameter[key] for key in ("description", "deprecated") if parameter.get(key)}
    return {**schema, **said} if isinstance(schema, dict) else schema
