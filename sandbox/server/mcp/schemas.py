"""Parts of the JSON Schemas by which the server describes its own tools."""

from collections.abc import Mapping, Sequence
from typing import Any

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
ANYTHING: dict[str, Any] = {}


def items(of: Mapping[str, Any], *, most: int | None = None) -> dict[str, Any]:
    """A list."""
    return {"type": "array", "items": of} | ({} if most is None else {"maxItems": most})


def shape(fields: Mapping[str, Any], required: Sequence[str] = (), *, closed: bool = False) -> dict[str, Any]:
    """An object; with `closed` it has no other fields."""
    found: dict[str, Any] = {"type": "object", "properties": dict(fields)}
    if required:
        found["required"] = list(required)
    return found | ({"additionalProperties": False} if closed else {})


ERROR = {
    "type": ["object", "null"],
    "properties": {"code": TEXT, "message": TEXT, "retryable": {"type": "boolean"}, "details": {"type": "object"}},
}
