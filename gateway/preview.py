"""The first characters of a result, for whoever watches: bounded in work, and masked before it is cut."""

import json
from typing import Any

from gateway.base import JsonValue
from gateway.masking import mask_fields

PREVIEW_CHARS = 100
"""Longest preview; a longer text ends with `…` after that many."""

_ITEMS = PREVIEW_CHARS // 2
_DEPTH = 8
_TEXT = PREVIEW_CHARS * 3
"""What is kept of a text before it is masked: what a mask knows by its shape must not be cut in two by the end."""


def preview(value: JsonValue) -> tuple[str, bool]:
    """Its beginning as JSON, and whether something in it was masked."""
    kept = _kept(value, _DEPTH)
    shown = mask_fields(kept)
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    return (text if len(text) <= PREVIEW_CHARS else f"{text[:PREVIEW_CHARS]}…"), shown != kept


def _kept(value: Any, depth: int) -> JsonValue:
    """As much of it as a preview can show. What a record cut off is told by its size: its head is text without names
    of fields, which no mask can read."""
    if isinstance(value, str):
        return value[:_TEXT]
    if isinstance(value, dict):
        if value.keys() == {"truncated", "bytes", "head"}:
            return f"({value['bytes']} bytes)"
        items = list(value.items())[:_ITEMS]
        return {name[:_TEXT]: _kept(inner, depth - 1) for name, inner in items} if depth else "…"
    if isinstance(value, list):
        return [_kept(inner, depth - 1) for inner in value[:_ITEMS]] if depth else "…"
    return value
