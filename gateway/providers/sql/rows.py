"""Rows of an answer, taken one by one as far as they are wanted."""

import json
from collections.abc import Collection, Iterable
from typing import Any

from gateway.base import MAX_RESULT_BYTES, JsonValue
from gateway.errors import PayloadTooLarge
from gateway.payload import encode
from gateway.providers.sql.values import json_value

BATCH = 50
"""Rows fetched at a time: what the host holds beyond the rows it has looked at."""

_OVERHEAD_BYTES = 1000  # of a result around its rows, but for the names of the columns


class Rows:
    """`json_columns` are those of `names` whose texts are JSON."""

    def __init__(self, names: Iterable[str], max_rows: int, json_columns: Collection[str] = ()) -> None:
        self._columns = _distinct(names)
        self._max_rows = max_rows
        self._json_columns = frozenset(json_columns).intersection(self._columns)
        self._left_bytes = MAX_RESULT_BYTES - _OVERHEAD_BYTES - len(encode(self._columns))
        self._rows: list[JsonValue] = []
        self._truncated = False

    def add(self, values: Iterable[Any]) -> bool:
        """Take a row; False when there is no room for it, nor for more. Raises PayloadTooLarge for a first row."""
        row = {name: json_value(value) for name, value in zip(self._columns, values, strict=True)}
        for name in self._json_columns:
            row[name] = json.loads(row[name]) if isinstance(row[name], str) else row[name]
        size = len(encode(row)) + 1
        if size > self._left_bytes and not self._rows:
            raise PayloadTooLarge("a row", size, self._left_bytes)
        self._truncated = size > self._left_bytes or len(self._rows) == self._max_rows
        if not self._truncated:
            self._left_bytes -= size
            self._rows.append(row)
        return not self._truncated

    def answer(self) -> dict[str, JsonValue]:
        rows = self._rows
        return {"columns": self._columns, "rows": rows, "row_count": len(rows), "truncated": self._truncated}


def _distinct(names: Iterable[str]) -> list[str]:
    """A second `id` is `id_2`: rows are objects, and none of their values may get lost."""
    found: dict[str, None] = {}
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found[candidate] = None
    return list(found)
