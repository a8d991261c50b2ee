"""JSON Schemas as Gemini reads them: a few keywords, and nothing of the rest.

Those that Google documents for `responseJsonSchema`: beside a `$ref` only what begins with `$`, and in an `enum` texts
and numbers.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_KEPT = frozenset(
    {
        *("$anchor", "$defs", "$id", "$ref", "additionalProperties", "anyOf", "description", "enum", "format", "items"),
        *(
            "maxItems",
            "maximum",
            "minItems",
            "minimum",
            "oneOf",
            "prefixItems",
            "properties",
            "required",
            "title",
            "type",
        ),
    }
)
_BY_NAME = ("$defs", "properties")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_SINGLE = ("additionalProperties", "items")
_SAYS_NOTHING = ("$schema", "$comment", "deprecated", "examples", "readOnly", "writeOnly")


class Reduced(NamedTuple):
    """A schema, and the paths of the constraints in it that were left out."""

    schema: dict[str, Any]
    lost: tuple[str, ...]


def reduced(schema: Mapping[str, Any], path: str) -> Reduced:
    """`schema`, which stands at `path`, with the keywords that Gemini documents. `const` becomes `enum`."""
    lost: list[str] = []
    return Reduced(_reduced(schema, path, lost), tuple(lost))


def _reduced(schema: Mapping[str, Any], path: str, lost: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keyword, value in _renamed(schema):
        if not _is_read(keyword, value, schema):
            if keyword not in _SAYS_NOTHING:
                lost.append(f"{path}.{keyword}")
        elif keyword in _BY_NAME:
            found[keyword] = {name: _any(below, f"{path}.{keyword}.{name}", lost) for name, below in value.items()}
        elif keyword in _LISTS:
            found[keyword] = [_any(below, f"{path}.{keyword}[{at}]", lost) for at, below in enumerate(value)]
        elif keyword in _SINGLE:
            found[keyword] = _any(value, f"{path}.{keyword}", lost)
        else:
            found[keyword] = value
    return found


def _is_read(keyword: str, value: Any, schema: Mapping[str, Any]) -> bool:
    if keyword not in _KEPT or ("$ref" in schema and not keyword.startswith("$")):
        return False
    return keyword != "enum" or all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in value)


def _any(schema: Any, path: str, lost: list[str]) -> Any:
    return _reduced(schema, path, lost) if isinstance(schema, Mapping) else schema


def _renamed(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword, value in schema.items():
        if keyword == "const" and "enum" not in schema:
            yield "enum", [value]
        else:
            yield keyword, value
