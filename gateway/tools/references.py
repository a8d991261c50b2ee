"""Local references of a JSON Schema: what `#/$defs/User` and `#user` point to."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_MAX_HOPS = 16
"""Most `$ref`s to `$ref`s that are followed; a longer chain is a circle."""


def resolved(root: Mapping[str, Any], schema: object) -> object:
    """`schema`, or what its local `$ref` points to; None when that is nothing."""
    for _ in range(_MAX_HOPS):
        ref = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(ref, str):
            return schema
        schema = target(root, ref)
    return None


def target(root: Mapping[str, Any], ref: str) -> object:
    """What a `$ref` points to, which may be another reference; None when that is not in this schema."""
    if ref == "#":
        return root
    if ref.startswith("#/"):
        return _at(root, unquote(ref[2:]).split("/"))
    return _anchored(root, ref[1:]) if ref.startswith("#") else None


def _at(node: object, path: list[str]) -> object:
    for part in path:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdecimal():
            node = node[int(key)] if int(key) < len(node) else None
        else:
            node = node.get(key) if isinstance(node, dict) else None
    return node


def _anchored(root: Mapping[str, Any], name: str) -> object:
    waiting: list[object] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if name in (node.get("$anchor"), node.get("$dynamicAnchor")) or node.get("$id") == f"#{name}":
                return node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return None
