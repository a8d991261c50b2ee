"""The set of tools that can be resolved, searched and described."""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.errors import InvalidRequest, ToolNotFound
from gateway.tools.model import Tool, ToolId, version_key
from gateway.tools.validation import SchemaValidator

_NEAR_MATCHES = 3
# difflib costs about 10 µs per candidate, and a guest may ask for as many misspelt names as it likes.
_MAX_CANDIDATES = 200


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool with its schemas compiled. `id` is its full id; `output` is None when any result is fine.

    `address` is the shortest id that leads to it now: without the version for the newest one of that name.
    """

    tool: Tool
    id: str
    address: str
    input: SchemaValidator
    output: SchemaValidator | None


class ToolRegistry:
    """Tools by id. `version` changes with every mutation. Not for use from several threads."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._by_id: dict[str, RegisteredTool] = {}
        self._by_address: dict[str, RegisteredTool] = {}
        # Ids of the tools that differ in their version only, by their id without it.
        self._families: dict[str, list[str]] = {}
        self._namespaces: Counter[str] = Counter()
        self._sorted: tuple[RegisteredTool, ...] | None = None
        self.version = 0
        self.register_all(tools)

    def register(self, tool: Tool) -> None:
        """Add one tool. Raises InvalidToolId for reserved names, InvalidRequest for a taken id or a bad schema."""
        self.register_all((tool,))

    def register_all(self, tools: Iterable[Tool]) -> None:
        """Add all of them, or none when one is refused."""
        added: dict[str, RegisteredTool] = {}
        for tool in tools:
            compiled = _compiled(tool)
            if compiled.id in self._by_id or compiled.id in added:
                raise InvalidRequest(f"tool {compiled.id!r} is registered already; unregister it first, or rename one")
            added[compiled.id] = compiled
        self._check_namespaces(added)
        for compiled in added.values():
            self._by_id[compiled.id] = compiled
            self._families.setdefault(compiled.tool.id.unversioned, []).append(compiled.id)
            self._namespaces[compiled.tool.id.namespace] += 1
        self._changed({compiled.tool.id.unversioned for compiled in added.values()})

    def unregister(self, tool_id: str) -> None:
        """Remove the tool that this id leads to. Raises InvalidToolId, ToolNotFound."""
        found = self.resolve(tool_id)
        family = found.tool.id.unversioned
        del self._by_id[found.id]
        del self._by_address[found.id]
        self._by_address.pop(family, None)
        self._families[family].remove(found.id)
        self._namespaces[found.tool.id.namespace] -= 1
        self._changed({family})

    def resolve(self, tool_id: str) -> RegisteredTool:
        """The tool of this id; without a version, the newest one. Raises InvalidToolId, ToolNotFound."""
        found = self._by_address.get(tool_id)
        if found is None:
            raise ToolNotFound(tool_id, self.near(tool_id))
        return found

    def find(self, tool_id: str) -> RegisteredTool | None:
        """As `resolve`, but None when there is no such tool."""
        return self._by_address.get(tool_id)

    def near(self, tool_id: str, permits: Callable[[RegisteredTool], bool] = lambda _: True) -> tuple[str, ...]:
        """At most 3 addresses that resemble `tool_id`, best first. Raises InvalidToolId."""
        wanted = ToolId.parse(tool_id)
        permitted = [tool for tool in self.tools() if permits(tool)]
        # The right name in the wrong namespace first; then whatever is spelt alike.
        same = [tool.address for tool in permitted if tool.tool.id.name == wanted.name]
        candidates = [tool.address for tool in permitted[:_MAX_CANDIDATES]]
        alike = difflib.get_close_matches(tool_id, candidates, _NEAR_MATCHES)
        return tuple(dict.fromkeys([*same, *alike]))[:_NEAR_MATCHES]

    def tools(self) -> tuple[RegisteredTool, ...]:
        """All tools, sorted by id."""
        if self._sorted is None:
            self._sorted = tuple(self._by_id[tool_id] for tool_id in sorted(self._by_id))
        return self._sorted

    def namespaces(self) -> tuple[str, ...]:
        """Namespaces with at least one tool, sorted; the empty one stands for tools without."""
        return tuple(sorted(namespace for namespace, count in self._namespaces.items() if count))

    def __len__(self) -> int:
        return len(self._by_id)

    def _check_namespaces(self, added: Mapping[str, RegisteredTool]) -> None:
        """In the guest `tools.x` is either a tool or a namespace."""
        namespaces = {compiled.tool.id.namespace for compiled in added.values()}
        for name in namespaces - {""}:
            if name in self._by_id or name in added:
                raise InvalidRequest(f"{name!r} is a tool, so it cannot be a namespace too; rename one of them")
        for tool_id in added:
            if self._namespaces[tool_id] or tool_id in namespaces:
                raise InvalidRequest(f"{tool_id!r} is a namespace, so it cannot be a tool too; rename one of them")

    def _changed(self, families: Iterable[str]) -> None:
        for family in families:
            self._readdress(family, self._families[family])
            if not self._families[family]:
                del self._families[family]
        self._sorted = None
        self.version += 1

    def _readdress(self, family: str, tool_ids: list[str]) -> None:
        newest = max(tool_ids, key=self._rank, default=None)
        for tool_id in tool_ids:
            address = family if tool_id == newest else tool_id
            found = dataclasses.replace(self._by_id[tool_id], address=address)
            self._by_id[tool_id] = self._by_address[tool_id] = self._by_address[address] = found

    def _rank(self, tool_id: str) -> tuple[bool, tuple[Any, ...]]:
        version = self._by_id[tool_id].tool.id.version
        return not version, version_key(version)  # a tool without version is what its own id means


def _compiled(tool: Tool) -> RegisteredTool:
    tool.id.check_reachable()
    if tool.input_schema.get("type", "object") != "object":
        raise InvalidRequest(f"the input schema of {tool.id} must have type object: arguments are passed by name")
    try:
        given = SchemaValidator(tool.input_schema)
        result = None if tool.output_schema is None else SchemaValidator(tool.output_schema)
    except InvalidRequest as exc:
        raise InvalidRequest(f"tool {tool.id}: {exc}") from exc
    return RegisteredTool(tool, str(tool.id), str(tool.id), given, result)
