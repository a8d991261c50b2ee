"""How much work a JSON Schema can make: schemas come from strangers, and the values that they judge from guests."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gateway.errors import InvalidRequest
from gateway.tools.references import target

MAX_COMPARISONS = 1_000_000
"""Most sub-schemas that one path through a value may be compared with. That many take 10 to 80 ms (measured)."""

# Keywords whose schemas judge the same value, and those whose schemas judge what is in it. Draft-07's are among them.
_SAME_VALUE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"})
_ITS_PARTS = frozenset(
    {
        *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames"),
        *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"),
    }
)
_BY_NAME = frozenset({"dependentSchemas", "dependencies", "properties", "patternProperties"})
_REFERENCES = frozenset({"$ref", "$dynamicRef"})
_INNER = frozenset({*_SAME_VALUE, *_ITS_PARTS, *_REFERENCES, "$id"})


class Complexity(NamedTuple):
    """`comparisons`: sub-schemas that one path through a value may be compared with, each recursion counted once.

    `recursions`: ways in which the schema contains itself; looking a misfit up may take that many times as long for
    every level of nesting.
    """

    comparisons: int
    recursions: int


def complexity(schema: Mapping[str, Any]) -> Complexity:
    """Raises InvalidRequest for a schema that is nested too deeply, or that has an `$id` within it."""
    walk = _Walk(schema)
    try:
        walk.visit(schema)
    except RecursionError:
        raise InvalidRequest("invalid schema: it is nested too deeply") from None
    return Complexity(walk.costs[id(schema)], walk.recursions())


class _Walk:
    """Depth first through parts and references, finding circles by Tarjan's algorithm on the way."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self.costs: dict[int, int] = {}
        self._edges: list[tuple[int, int]] = []
        self._lowest: dict[int, int] = {}
        self._open: list[int] = []
        self._circle: dict[int, int] = {}

    def recursions(self) -> int:
        """Of the circle that has the most: what it has more edges than a tree of its nodes."""
        nodes = Counter(self._circle.values())
        edges = Counter(self._circle[start] for start, end in self._edges if self._circle[start] == self._circle[end])
        return max(edges[circle] - nodes[circle] + 1 for circle in nodes)

    def visit(self, schema: Mapping[str, Any]) -> None:
        if schema is not self._root and not str(schema.get("$id", "#")).startswith("#"):
            raise InvalidRequest("invalid schema: an $id within it; point to $defs with #/$defs/name instead")
        key, order = id(schema), len(self._lowest)
        self._lowest[key] = order
        self._open.append(key)
        self.costs[key] = 1  # for whoever comes back here: the engine remembers what a recursion found
        same, below = 1, 0
        for keyword, value in schema.items():
            if keyword in _SAME_VALUE:
                same += sum(self._enter(key, part) for part in _parts(keyword, value))
            elif keyword in _ITS_PARTS:
                below = max([below, *(self._enter(key, part) for part in _parts(keyword, value))])
            elif keyword in _REFERENCES:
                same += self._refer(key, value)
        self.costs[key] = same + below
        if self._lowest[key] == order:
            self._close(key)

    def _enter(self, key: int, part: object) -> int:
        """What `part` costs, which `key` contains or refers to."""
        if not isinstance(part, dict) or _INNER.isdisjoint(part):
            return 1
        self._edges.append((key, id(part)))
        if id(part) not in self._lowest:
            self.visit(part)
        if id(part) not in self._circle:
            self._lowest[key] = min(self._lowest[key], self._lowest[id(part)])
        return self.costs[id(part)]

    def _close(self, key: int) -> None:
        """All since `key` lead back to it."""
        while key not in self._circle:
            self._circle[self._open.pop()] = key

    def _refer(self, key: int, ref: object) -> int:
        found = target(self._root, ref) if isinstance(ref, str) else None
        return 0 if found is None else self._enter(key, found)


def _parts(keyword: str, value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values() if keyword in _BY_NAME else (value,)
    return value if isinstance(value, list) else ()
