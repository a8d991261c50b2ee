"""What the tools of an SQL database take and give."""

from typing import Any

TABLE_OF_ROWS: dict[str, Any] = {
    "columns": {"type": "array", "items": {"type": "string"}},
    "rows": {"type": "array", "items": {"type": "object"}},
    "row_count": {"type": "integer"},
    "truncated": {"type": "boolean", "description": "whether there were more rows"},
}
ROWS = {"type": "object", "properties": TABLE_OF_ROWS, "required": list(TABLE_OF_ROWS)}
CHANGES = {
    "type": "object",
    "properties": {**TABLE_OF_ROWS, "rows_affected": {"type": ["integer", "null"], "description": "null: not told"}},
}
QUERY = {
    "type": "object",
    "properties": {
        "statement": {"type": "string", "description": "one SQL statement with named binds, as in `WHERE id = :id`"},
        "arguments": {"type": "object", "description": "a value for each bind", "default": {}},
    },
    "required": ["statement"],
    "additionalProperties": False,
}
WHICH = {
    "type": "object",
    "properties": {
        "table": {"type": "string", "description": "one table or view; left out for all"},
        "schema": {"type": "string", "description": "left out for the default one"},
    },
    "additionalProperties": False,
}
TABLES = {
    "type": "object",
    "properties": {"tables": {"type": "array", "items": {"type": "object"}}, "truncated": {"type": "boolean"}},
    "required": ["tables", "truncated"],
}
SCALAR = {"type": ["string", "number", "boolean", "null"]}
