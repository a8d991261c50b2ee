"""Hides what fields of a value hold when their names say that it is nobody else's business."""

import re

from gateway.base import JsonValue

MASK = "***"

_PRIVATE = re.compile(
    r"pass(word|wd|phrase)|secret|token|api_?key|auth|credential|cookie|session|ssn|id_?card|card|iban|cvv"
    r"|phone|mobile|e?mail|address",
    re.IGNORECASE,
)


def mask_fields(value: JsonValue) -> JsonValue:
    """A copy in which the values of such fields are `***`, however deep they are."""
    if isinstance(value, dict):
        return {name: MASK if _PRIVATE.search(name) else mask_fields(inner) for name, inner in value.items()}
    return [mask_fields(inner) for inner in value] if isinstance(value, list) else value
