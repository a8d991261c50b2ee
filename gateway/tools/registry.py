"""The set of tools that can be resolved, searched and described."""

import dataclasses
import difflib
import logging
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from gateway.base import JsonValue
from gateway.errors import InvalidInput, InvalidRequest, InvalidToolId, MissingExtra, ToolFailed, ToolNotFound
from gateway.providers.base import StreamingProvider
from gateway.tools.changes import Change, ChangeFeed, ChangeKind, Listener
from gateway.tools.model import Tool, ToolId, normal_tag
from gateway.tools.paging import Page, cursor_after, place_of
from gateway.tools.resolvers import Resolvers, ToolResolver
from gateway.tools.validation import SchemaValidator
from gateway.tools.versions import VersionSelector, chosen_version

_log = logging.getLogger(__name__)

_NEAR_MATCHES = 3
# difflib costs about 10 µs per candidate, and a guest may ask for as many misspelt names as it likes.
_MAX_CANDIDATES = 200
_LIST = "tools"
_MAX_RESOLVED = 256


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool with its schemas compiled. `id` is its full id; `output` is None when any result is fine.

    `streams` says that its provider gives the result in chunks, and `chunk` is what each must fit.

    `address` is the shortest id that leads to it now: without the version for the newest one of that name.
    """

    tool: Tool
    id: str
    address: str
    input: SchemaValidator
    output: SchemaValidator | None
    chunk: SchemaValidator | None = None
    streams: bool = False

    def fits(self, namespace: str | None, tags: frozenset[str]) -> bool:
        """Whether it is of this namespace (None for any) and has all of these tags, in their normal form."""
        return (namespace is None or self.tool.id.namespace == namespace) and tags.issubset(self.tool.tags)


Permits: TypeAlias = Callable[[RegisteredTool], bool]


def _anything(_: RegisteredTool) -> bool:
    return True


def _admitted(_: RegisteredTool) -> None:
    """Nobody has anything against it."""


class ToolRegistry:
    """Tools by id. `version` changes with every mutation. Not for use from several threads.

    A disabled tool keeps its id, and is otherwise as if it were not registered. `selector` chooses which version of a
    tool answers to the id without version; None is the newest. `resolvers` know further tools, which can be called and
    described by their ids, but are not listed or found.
    """

    def __init__(
        self,
        tools: Iterable[Tool] = (),
        *,
        resolvers: Iterable[ToolResolver] = (),
        selector: VersionSelector | None = None,
    ) -> None:
        self._resolvers = Resolvers(resolvers)
        self._resolved: OrderedDict[str, RegisteredTool] = OrderedDict()
        self._selector = selector
        self._by_id: dict[str, RegisteredTool] = {}
        self._by_address: dict[str, RegisteredTool] = {}
        # Ids of the tools that differ in their version only, by their id without it.
        self._families: dict[str, list[str]] = {}
        self._namespaces: Counter[str] = Counter()
        self._disabled: set[str] = set()
        self._sources: dict[str, str] = {}
        self._sorted: tuple[RegisteredTool, ...] | None = None
        self._feed = ChangeFeed()
        self._admit: Callable[[RegisteredTool], None] = _admitted
        self.version = 0
        self.register_all(tools)

    def register(self, tool: Tool) -> None:
        """Add one tool. Raises InvalidToolId for reserved names, InvalidRequest for a taken id or a bad schema."""
        self.register_all((tool,))

    def register_all(self, tools: Iterable[Tool]) -> None:
        """Add all of them, or none when one is refused."""
        added = _distinct(tools)
        self._check_free(added)
        self._change({tool_id: self._compiled(tool) for tool_id, tool in added.items()}, ())

    def replace_all(self, source: str, tools: Iterable[Tool]) -> None:
        """Make `tools` those of `source`, in one step, or change nothing when one of them is refused.

        What an earlier call brought for this source and is not among them now is removed; none removes all. A tool
        that is equal to the one before stays as it is, and a disabled one stays disabled.
        """
        given = _distinct(tools)
        old = {tool_id for tool_id, owner in self._sources.items() if owner == source}
        self._check_free(given.keys() - old)
        new = {tool_id: tool for tool_id, tool in given.items() if tool_id not in old or self._differs(tool_id, tool)}
        gone = sorted(old - given.keys())
        self._change({tool_id: self._compiled(tool) for tool_id, tool in new.items()}, gone, source)

    def unregister(self, tool_id: str) -> None:
        """Remove the tool that this id leads to; a disabled one by its full id. Raises InvalidToolId, ToolNotFound."""
        self._change({}, (tool_id if tool_id in self._disabled else self.resolve(tool_id).id,))

    def disable(self, tool_id: str) -> None:
        """Hide the tool of this full id until it is enabled. Idempotent. Raises InvalidToolId, ToolNotFound.

        An id without version then leads to the newest of the versions that are left.
        """
        self._check_known(tool_id)
        if tool_id not in self._disabled:
            chosen = self._choose({}, (tool_id,), self._disabled | {tool_id})
            self._disabled.add(tool_id)
            self._settle(chosen, [("disabled", tool_id)])

    def enable(self, tool_id: str) -> None:
        """Undo `disable`. Idempotent. Raises InvalidToolId, ToolNotFound."""
        self._check_known(tool_id)
        if tool_id in self._disabled:
            chosen = self._choose({}, (tool_id,), self._disabled - {tool_id})
            self._disabled.remove(tool_id)
            self._settle(chosen, [("enabled", tool_id)])

    def admit_with(self, check: Callable[[RegisteredTool], None]) -> None:
        """Let `check` look at every tool from now on before it is added; what it raises refuses the tool."""
        self._admit = check

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after every change. What this returns ends it, and is idempotent.

        A listener that raises is logged and harms nobody. It may change the registry.
        """
        return self._feed.subscribe(listener)

    def knows(self, tool_id: str) -> bool:
        """Whether a tool of this full id is registered, disabled ones included."""
        return tool_id in self._by_id

    def resolve(self, tool_id: str) -> RegisteredTool:
        """The tool of this id; without a version, the newest one. Raises InvalidToolId, ToolNotFound."""
        found = self._by_address.get(tool_id)
        if found is None:
            raise ToolNotFound(tool_id, self.near(tool_id))
        return found

    def find(self, tool_id: str) -> RegisteredTool | None:
        """As `resolve`, but None when there is no such tool."""
        return self._by_address.get(tool_id)

    async def lookup(self, tool_id: str) -> RegisteredTool | None:
        """As `find`, but resolvers are asked for an id that is not registered, nor one of a tool with versions here.

        They are asked each time. Raises InvalidToolId, ToolFailed, ToolUnavailable, and a resolver's ToolError.
        """
        is_known = tool_id in self._by_address or tool_id in self._disabled or self._families.get(tool_id)
        if is_known or not self._resolvers:
            return self.find(tool_id)
        tool = await self._resolvers.ask(ToolId.parse(tool_id))
        if tool is None or str(tool.id) in self._disabled or tool_id in self._by_address:
            return self.find(tool_id)
        return self._kept(tool_id, tool)

    def near(self, tool_id: str, permits: Permits = _anything) -> tuple[str, ...]:
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
            self._sorted = tuple(self._by_id[tool_id] for tool_id in sorted(self._by_id.keys() - self._disabled))
        return self._sorted

    def page(
        self,
        limit: int,
        cursor: str | None = None,
        *,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        permits: Permits = _anything,
    ) -> Page[RegisteredTool]:
        """At most `limit` tools by id: the first ones, or those after the page that gave `cursor`.

        Only those of `namespace` ("" for tools without, None for all), with all of `tags` and that `permits` accepts.
        Tools that come and go do not disturb the others. Raises InvalidInput for a limit below 1, InvalidCursor for a
        cursor that another list, other filters or another process gave.
        """
        if limit < 1:
            raise InvalidInput(f"limit must be at least 1, not {limit}")
        wanted = frozenset(map(normal_tag, tags))
        filters = [namespace, sorted(wanted)]
        fitting = (tool for tool in self._after(cursor, filters) if tool.fits(namespace, wanted) and permits(tool))
        found = tuple(islice(fitting, limit + 1))
        if len(found) <= limit:
            return Page(found, None)
        return Page(found[:limit], cursor_after(found[limit - 1].id, _LIST, filters))

    def namespaces(self) -> tuple[str, ...]:
        """Namespaces with at least one tool, sorted; the empty one stands for tools without."""
        return tuple(sorted({tool.tool.id.namespace for tool in self.tools()}))

    def disabled(self) -> frozenset[str]:
        """The ids of the tools that are disabled."""
        return frozenset(self._disabled)

    def __len__(self) -> int:
        return len(self._by_id) - len(self._disabled)

    def _after(self, cursor: str | None, filters: JsonValue) -> Iterable[RegisteredTool]:
        tools = self.tools()
        if cursor is None:
            return tools
        start = bisect_right(tools, place_of(cursor, _LIST, filters), key=lambda tool: tool.id)
        return islice(tools, start, None)

    def _kept(self, address: str, tool: Tool) -> RegisteredTool:
        """A tool that a resolver gave, compiled: anew when it is not equal to the one before."""
        found = self._resolved.get(address)
        if found is None or found.tool != tool:
            try:
                found = dataclasses.replace(self._compiled(tool), address=address)
            except (InvalidRequest, InvalidToolId, MissingExtra) as exc:
                details = {"type": type(exc).__name__}
                raise ToolFailed(f"looking up {address} gave a tool that is none: {exc}", details=details) from exc
            self._resolved[address] = found
        self._resolved.move_to_end(address)
        if len(self._resolved) > _MAX_RESOLVED:
            self._resolved.popitem(last=False)
        return found

    def _compiled(self, tool: Tool) -> RegisteredTool:
        compiled = _compiled(tool)
        self._admit(compiled)
        return compiled

    def _differs(self, tool_id: str, tool: Tool) -> bool:
        return self._by_id[tool_id].tool != tool

    def _check_known(self, tool_id: str) -> None:
        if tool_id not in self._by_id:
            raise ToolNotFound(tool_id, self.near(tool_id))

    def _check_free(self, tool_ids: Iterable[str]) -> None:
        for tool_id in tool_ids:
            if tool_id in self._by_id:
                side_by_side = "" if ":" in tool_id else "; versions side by side need a namespace"
                raise InvalidRequest(
                    f"tool {tool_id!r} is registered already; unregister it first, or rename one{side_by_side}"
                )

    def _check_namespaces(self, added: Mapping[str, RegisteredTool], removed: Collection[str]) -> None:
        """In the guest `tools.x` is either a tool or a namespace."""
        left = self._namespaces
        if removed:
            left = left - Counter(self._by_id[tool_id].tool.id.namespace for tool_id in removed)
        namespaces = {compiled.tool.id.namespace for compiled in added.values()} - {""}
        for name in namespaces:
            if name in added or (name in self._by_id and name not in removed):
                raise InvalidRequest(f"{name!r} is a tool, so it cannot be a namespace too; rename one of them")
        for tool_id in added:
            if left[tool_id]:
                raise InvalidRequest(f"{tool_id!r} is a namespace, so it cannot be a tool too; rename one of them")

    def _change(self, added: Mapping[str, RegisteredTool], removed: Collection[str], source: str | None = None) -> None:
        """Remove, add and replace in one step."""
        self._check_namespaces(added, removed)
        told: list[tuple[ChangeKind, str]] = [("removed", tool_id) for tool_id in removed]
        told += [("updated" if tool_id in self._by_id else "registered", tool_id) for tool_id in added]
        chosen = self._choose(added, removed, self._disabled.union(removed))
        for tool_id in removed:
            self._drop(tool_id)
        for compiled in added.values():
            self._put(compiled)
        if source is not None:
            self._sources |= dict.fromkeys(added, source)
        if told:
            self._settle(chosen, told)

    def _choose(
        self, added: Mapping[str, RegisteredTool], touched: Collection[str], hidden: Set[str]
    ) -> dict[str, str | None]:
        """What each tool's id without version will lead to, of all but the hidden ones. Before anything is changed."""
        families = {self._by_id[tool_id].tool.id.unversioned for tool_id in touched}
        families |= {compiled.tool.id.unversioned for compiled in added.values()}
        left = {
            family: {tool_id: self._by_id[tool_id].tool for tool_id in self._families.get(family, ())}
            for family in families
        }
        for tool_id, compiled in added.items():
            left[compiled.tool.id.unversioned][tool_id] = compiled.tool
        return {
            family: self._chosen([tool for tool_id, tool in tools.items() if tool_id not in hidden], must=bool(added))
            for family, tools in left.items()
        }

    def _chosen(self, versions: list[Tool], *, must: bool) -> str | None:
        """A failing selector keeps nothing from being taken away; the id without version then leads nowhere."""
        try:
            chosen = chosen_version(versions, self._selector)
        except InvalidRequest:
            if must:
                raise
            _log.exception("no version of %s answers to its id without version", versions[0].id.unversioned)
            return None
        return None if chosen is None else str(chosen.id)

    def _put(self, compiled: RegisteredTool) -> None:
        family = compiled.tool.id.unversioned
        if compiled.id not in self._by_id:
            self._families.setdefault(family, []).append(compiled.id)
            self._namespaces[compiled.tool.id.namespace] += 1
        self._by_id[compiled.id] = compiled

    def _drop(self, tool_id: str) -> None:
        dropped = self._by_id.pop(tool_id).tool.id
        self._by_address.pop(tool_id, None)
        self._families[dropped.unversioned].remove(tool_id)
        self._namespaces[dropped.namespace] -= 1
        self._disabled.discard(tool_id)
        self._sources.pop(tool_id, None)

    def _settle(self, chosen: Mapping[str, str | None], told: Iterable[tuple[ChangeKind, str]]) -> None:
        for family, chosen_id in chosen.items():
            self._readdress(family, self._families[family], chosen_id)
            if not self._families[family]:
                del self._families[family]
        self._sorted = None
        self.version += 1
        self._feed.tell([Change(kind, tool_id, self.version) for kind, tool_id in told])

    def _readdress(self, family: str, tool_ids: list[str], chosen_id: str | None) -> None:
        for address in (family, *tool_ids):
            self._by_address.pop(address, None)
        enabled = [tool_id for tool_id in tool_ids if tool_id not in self._disabled]
        for tool_id in enabled:
            address = family if tool_id == chosen_id else tool_id
            found = dataclasses.replace(self._by_id[tool_id], address=address)
            self._by_id[tool_id] = self._by_address[tool_id] = self._by_address[address] = found


def _distinct(tools: Iterable[Tool]) -> dict[str, Tool]:
    found: dict[str, Tool] = {}
    for tool in tools:
        if found.setdefault(str(tool.id), tool) is not tool:
            raise InvalidRequest(f"tool {str(tool.id)!r} is given twice; rename one of them")
    return found


def _compiled(tool: Tool) -> RegisteredTool:
    tool.id.check_reachable()
    if tool.input_schema.get("type", "object") != "object":
        raise InvalidRequest(f"the input schema of {tool.id} must have type object: arguments are passed by name")
    try:
        given = SchemaValidator(tool.input_schema)
        result = None if tool.output_schema is None else SchemaValidator(tool.output_schema)
    except InvalidRequest as exc:
        raise InvalidRequest(f"tool {tool.id}: {exc}") from exc
    streams = isinstance(tool.provider, StreamingProvider)
    return RegisteredTool(tool, str(tool.id), str(tool.id), given, result, _chunk(tool) if streams else None, streams)


def _chunk(tool: Tool) -> SchemaValidator | None:
    """The whole result of a tool that streams is the list of its chunks."""
    schema = tool.output_schema or {}
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return None
    # What a `$ref` in it points to, and which dialect it is, stand at the root.
    root: dict[str, Any] = {key: schema[key] for key in ("$defs", "$schema", "definitions") if key in schema}
    return SchemaValidator({**root, **items})
