"""An OpenAPI document: read from text, a file or data, bounded, and its local references followed."""

import json
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gateway.base import JsonValue
from gateway.errors import InvalidRequest, MissingExtra

MAX_DOCUMENT_BYTES = 32 << 20
MAX_NODES = 2_000_000
"""Values in a document; a few lines of YAML aliases can stand for more than memory holds."""

MAX_NESTING = 200
_MAX_HOPS = 50


class Document:
    """The document as plain JSON. Raises InvalidRequest, with a JSON Pointer to the flaw where there is one."""

    def __init__(self, source: Mapping[str, Any] | str | Path) -> None:
        self.root: dict[str, Any] = _Plain().value(_loaded(source), "", 0)
        version = self.root.get("openapi") if isinstance(self.root, dict) else None
        if not isinstance(version, str) or not re.fullmatch(r"3\.[01](\..*)?", version):
            raise InvalidRequest(
                f"not an OpenAPI 3.0 or 3.1 document (its `openapi` is {str(version)[:50]!r}); convert it first"
            )
        self.is_30 = version.startswith("3.0")

    def mapping(self, node: JsonValue, pointer: str) -> dict[str, Any]:
        """The node itself, which must be an object; None is an empty one."""
        if node is None:
            return {}
        if not isinstance(node, dict):
            raise flaw(pointer, f"must be an object, not {type(node).__name__}")
        return node

    def sequence(self, node: JsonValue, pointer: str) -> list[Any]:
        """The node itself, which must be a list; None is an empty one."""
        if not isinstance(node, list | None):
            raise flaw(pointer, f"must be a list, not {type(node).__name__}")
        return node or []

    def followed(self, node: JsonValue, pointer: str) -> tuple[dict[str, Any], str]:
        """What an object with `$ref` stands for, and where that is; other objects stand for themselves."""
        start = pointer
        for _ in range(_MAX_HOPS):
            found = self.mapping(node, pointer)
            if "$ref" not in found:
                return found, pointer
            pointer = self.target(found["$ref"], pointer)
            node = self.at(pointer, start)
        raise flaw(start, "its $ref leads in a circle")

    def target(self, ref: JsonValue, pointer: str) -> str:
        """The pointer of a local reference."""
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            raise flaw(pointer, f"refers to {str(ref)[:100]!r}; only references such as #/components/... are followed")
        return ref[1:]

    def at(self, pointer: str, start: str) -> JsonValue:
        node: JsonValue = self.root
        for part in pointer.split("/")[1:]:
            key = _unescaped(part)
            if isinstance(node, dict) and key in node:
                node = node[key]
            elif isinstance(node, list) and key.isascii() and key.isdigit() and int(key) < len(node):
                node = node[int(key)]
            else:
                raise flaw(start, f"refers to #{pointer[:100]}, which is not there")
        return node


def flaw(pointer: str, text: str) -> InvalidRequest:
    return InvalidRequest(f"the OpenAPI document cannot be used: #{pointer} {text}")


def below(pointer: str, *keys: object) -> str:
    """The pointer to something further down."""
    escaped = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    return "/".join((pointer, *escaped))


def unique(name: str, taken: Container[str]) -> str:
    """The name, or the name with a number when it is taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _unescaped(part: str) -> str:
    return unquote(part).replace("~1", "/").replace("~0", "~")


def _loaded(source: Mapping[str, Any] | str | Path) -> JsonValue:
    if isinstance(source, Mapping):
        return source
    if isinstance(source, Path):
        if source.stat().st_size > MAX_DOCUMENT_BYTES:
            raise _too_large()
        source = source.read_text(encoding="utf-8")
    if len(source) > MAX_DOCUMENT_BYTES:
        raise _too_large()
    if source.lstrip().startswith("{"):
        try:
            return json.loads(source)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest(f"the OpenAPI document is no JSON: {exc}") from exc
    if "\n" not in source.strip():
        raise InvalidRequest("a text must be the OpenAPI document itself; pass pathlib.Path(...) for a file")
    return _yaml(source)


def _too_large() -> InvalidRequest:
    return InvalidRequest(f"the OpenAPI document is over {MAX_DOCUMENT_BYTES} bytes; cut it to what you need")


def _yaml(text: str) -> JsonValue:
    try:
        import yaml  # noqa: PLC0415 - an optional library
    except ModuleNotFoundError as exc:
        raise MissingExtra("OpenAPI documents in YAML", "openapi") from exc
    base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[valid-type,misc]  # the quick loader where it was built
        """YAML 1.2 as JSON: a date is text, `no` is text, 12:30 is text."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - pyyaml's declaration

    for tag, pattern, first in (
        ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"-?(?:0|[1-9][0-9]*)", list("-0123456789")),
        ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", list("-0123456789")),
        ("merge", r"<<", ["<"]),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a safe loader, with fewer types still
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the OpenAPI document is no YAML: {str(exc)[:500]}") from exc


class _Plain:
    """A copy made of JSON types only, and of no more of them than is sensible."""

    def __init__(self) -> None:
        self._nodes = 0

    def value(self, node: Any, pointer: str, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise InvalidRequest(f"the OpenAPI document has more than {MAX_NODES} values; cut it to what you need")
        if depth > MAX_NESTING:
            raise flaw(pointer[:200], f"is nested deeper than {MAX_NESTING} levels")
        if isinstance(node, Mapping):
            return {str(key): self.value(each, below(pointer, key), depth + 1) for key, each in node.items()}
        if isinstance(node, list | tuple):
            return [self.value(each, below(pointer, number), depth + 1) for number, each in enumerate(node)]
        if node is None or isinstance(node, str | bool | int) or (isinstance(node, float) and abs(node) < float("inf")):
            return node
        raise flaw(pointer, f"has a value of type {type(node).__name__}, which is not JSON")
