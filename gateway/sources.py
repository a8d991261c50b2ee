"""Sources: where several tools come from together, such as an MCP server, and may change while they are used."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from gateway.errors import Closed, InvalidRequest, InvalidToolId, MissingExtra, SandboxError, ToolUnavailable
from gateway.secrets import masked, trace
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import ToolRegistry

OPEN_SECONDS = 60.0
"""How long a source may take to open and to say for the first time what it offers."""

LIST_SECONDS = 30.0
"""How long it may take to say so again."""

CLOSE_SECONDS = 15.0
"""How long it may take to close; then it is cancelled."""

SETTLE_SECONDS = 0.1
"""After a change a source is left alone for so long: who changes many tools says so many times."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of a source; a tool without namespace gets the source's name as its namespace.

    `left_out` says why something that the source has is not among them, by the name it has there.
    """

    tools: tuple[Tool, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


class ToolSource(Protocol):
    """Brings tools of one origin. What these tools hold is the source's to release: nobody closes their providers."""

    @property
    def name(self) -> str:
        """Tells it from other sources, and is a namespace: letters, digits and `_ . -`."""
        ...

    def open(self, on_change: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Connect, for as long as the context lasts. It is entered and left in one task, so it may hold task groups.

        Call `on_change` in the event loop whenever `tools` has something new to say.
        """
        ...

    async def tools(self) -> Offer:
        """What it offers now. From any task while it is open."""
        ...

    async def health(self) -> None:
        """Return when calls could be answered now, raise what is wrong otherwise. From any task while it is open."""
        ...


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What a source has brought: the full ids of its tools, what was left out and why, and what went wrong last.

    With an `error` the tools are those of before.
    """

    name: str
    tool_ids: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


class Sources:
    """The sources of one registry. A task of each, in `tasks`, opens it, follows its changes and closes it."""

    def __init__(
        self,
        registry: ToolRegistry,
        tasks: TaskGroup,
        *,
        open_seconds: float = OPEN_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._registry = registry
        self._tasks = tasks
        self._open_seconds = open_seconds
        self._close_seconds = close_seconds
        self._owners: dict[str, _Owner] = {}
        self._closed = False

    async def add(self, *sources: ToolSource) -> tuple[SourceReport, ...]:
        """Open sources in this order and register their tools. When one fails, those before it are removed again.

        A tool that cannot be registered for itself (a schema that is none, a reserved name, an id given twice) is left
        out and reported. Raises InvalidRequest when a name is taken, or a tool's id by somebody else; whatever a source
        raises as it opens; ToolUnavailable when that takes over 60 s; Closed.
        """
        added: list[_Owner] = []
        try:
            for source in sources:
                added.append(await self._start(source))  # noqa: PERF401 - what was added before a failure is needed
        except BaseException:
            with anyio.CancelScope(shield=True):
                for error in await self._stop(reversed(added)):
                    _log.error("a source was removed again, and did not close cleanly: %s", trace(error))
            raise
        return tuple(owner.report for owner in added)

    async def remove(self, name: str) -> None:
        """Unregister the tools of a source and close it. Raises InvalidRequest, and ExceptionGroup when closing failed.

        It is gone in any case.
        """
        owner = self._owner(name)
        _raise_together(await self._stop((owner,)))

    async def refresh(self, name: str | None = None) -> tuple[SourceReport, ...]:
        """Ask one source, or all of them at once, what they offer, and make that their tools in the registry.

        One that fails keeps the tools it had, and its report says why. Raises InvalidRequest for an unknown name.
        """
        owners = tuple(self._owners.values()) if name is None else (self._owner(name),)
        async with anyio.create_task_group() as refreshing:
            for owner in owners:
                refreshing.start_soon(owner.refresh)
        return tuple(owner.report for owner in owners)

    def reports(self) -> tuple[SourceReport, ...]:
        """Every source, in the order in which they were added, as it was last heard of."""
        return tuple(owner.report for owner in self._owners.values())

    async def health(self) -> dict[str, str]:
        """What is wrong with each source now, by its name; empty when nothing is. All are asked at once, for 30 s."""
        found = dict.fromkeys(self._owners, "")

        async def ask(owner: _Owner) -> None:
            found[owner.source.name] = await owner.ailment()

        async with anyio.create_task_group() as asking:
            for owner in self._owners.values():
                asking.start_soon(ask, owner)
        return found

    async def check(self, name: str) -> None:
        """Return when this source answers, raise what is wrong with it. Raises InvalidRequest for an unknown name."""
        await self._owner(name).source.health()

    async def aclose(self) -> None:
        """Remove every source, the last one first, whatever happens. Raises ExceptionGroup. Idempotent."""
        self._closed = True
        _raise_together(await self._stop(reversed(tuple(self._owners.values()))))

    def _owner(self, name: str) -> "_Owner":
        if name not in self._owners:
            known = ", ".join(map(repr, self._owners)) or "none"
            raise InvalidRequest(f"no source {name!r} is connected; connected are: {known}")
        return self._owners[name]

    async def _start(self, source: ToolSource) -> "_Owner":
        if self._closed:
            raise Closed("set of sources")
        ToolId("any", namespace=source.name)
        if source.name in self._owners:
            raise InvalidRequest(f"a source {source.name!r} is connected already; disconnect it first, or rename one")
        owner = self._owners[source.name] = _Owner(source, self._registry, self._open_seconds, self._close_seconds)
        try:
            await self._tasks.start(owner.live)
        except BaseException:
            self._forget(owner)
            raise
        return owner

    def _forget(self, owner: "_Owner") -> None:
        if self._owners.get(owner.source.name) is owner:
            del self._owners[owner.source.name]

    async def _stop(self, owners: Iterable["_Owner"]) -> list[Exception]:
        failures = []
        for owner in owners:
            failure = await owner.stop()
            self._forget(owner)
            if failure is not None:
                failures.append(failure)
        return failures


class _Owner:
    """Has one source open, in one task."""

    def __init__(self, source: ToolSource, registry: ToolRegistry, open_seconds: float, close_seconds: float) -> None:
        self.source = source
        self._open_seconds = open_seconds
        self._close_seconds = close_seconds
        self.report = SourceReport(source.name)
        self._registry = registry
        self._life, self._following = anyio.CancelScope(), anyio.CancelScope()
        self._changed, self._ended = anyio.Event(), anyio.Event()
        self._refreshing = anyio.Lock()
        self._opened = self._stopped = False
        self._failure: Exception | None = None

    async def live(self, *, task_status: TaskStatus[None]) -> None:
        """Open the source, say so, follow it until `stop`, close it. Raises only what keeps it from opening."""
        failure: Exception | None = None
        try:
            with self._life:
                self._life.deadline = anyio.current_time() + self._open_seconds
                async with self.source.open(self._on_change):
                    try:
                        await self._register()
                    except Exception as exc:  # noqa: BLE001 - raised below: a task group of the source would wrap it
                        failure = exc
                    else:
                        await self._be_open(task_status)
            if failure is None and self._life.cancelled_caught:
                failure = self._late()
        except Exception as exc:  # noqa: BLE001 - raised or reported below
            failure = exc
        finally:
            self._registry.replace_all(self.source.name, ())
            self._ended.set()
        if failure is not None and not self._opened:
            raise failure
        if failure is not None:
            self._failure = failure
            self._say(failure)

    async def stop(self) -> Exception | None:
        """Take the tools out and close the source; how that failed."""
        self._stopped = True
        self._registry.replace_all(self.source.name, ())
        if self._opened:
            self._life.deadline = anyio.current_time() + self._close_seconds
            self._following.cancel()
        else:
            self._life.cancel()
        await self._ended.wait()
        return self._failure

    async def refresh(self) -> None:
        """Ask for the tools and register them; the report has what went wrong."""
        async with self._refreshing:
            try:
                with anyio.fail_after(LIST_SECONDS):
                    await self._register()
            except Exception as exc:  # noqa: BLE001 - a source is somebody else's code, and others depend on ours
                self._say(exc)

    async def ailment(self) -> str:
        try:
            with anyio.fail_after(LIST_SECONDS):
                await self.source.health()
        except Exception as exc:  # noqa: BLE001 - whatever it raises is the answer
            return _text(exc)
        return ""

    def _on_change(self) -> None:
        self._changed.set()

    async def _be_open(self, task_status: TaskStatus[None]) -> None:
        self._opened = True
        self._life.deadline = math.inf
        task_status.started()
        with self._following:
            await self._follow()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await anyio.sleep(SETTLE_SECONDS)
            self._changed = anyio.Event()
            await self.refresh()

    async def _register(self) -> None:
        offer = await self.source.tools()
        if self._stopped:
            return
        tools = [_named(tool, self.source.name) for tool in offer.tools]
        flaws: dict[str, str] = {}
        try:
            self._registry.replace_all(self.source.name, tools)
        except (InvalidRequest, InvalidToolId, MissingExtra):
            # Without those that are wrong in themselves. If it is another's id that is in the way, this fails again.
            tools, flaws = _fitting(tools)
            self._registry.replace_all(self.source.name, tools)
        ids = tuple(sorted(str(tool.id) for tool in tools))
        self.report = SourceReport(self.source.name, ids, {**offer.left_out, **flaws})

    def _late(self) -> SandboxError:
        name = f"source {self.source.name!r}"
        if self._opened:
            return SandboxError(f"{name} did not close within {self._close_seconds:g} s; something of it may be left")
        if self._stopped:
            return Closed("set of sources")
        return ToolUnavailable(name, f"it did not open within {self._open_seconds:g} s")

    def _say(self, exc: Exception) -> None:
        self.report = dataclasses.replace(self.report, error=_text(exc))
        _log.warning("source %s: %s", self.source.name, self.report.error)


def _named(tool: Tool, namespace: str) -> Tool:
    if tool.id.namespace:
        return tool
    return dataclasses.replace(tool, id=ToolId(tool.id.name, namespace, tool.id.version))


def _fitting(tools: Iterable[Tool]) -> tuple[list[Tool], dict[str, str]]:
    """The tools that can be registered together, and why the others cannot."""
    fitting, flaws = ToolRegistry(), {}
    for tool in tools:
        try:
            fitting.register(tool)
        except (InvalidRequest, InvalidToolId, MissingExtra) as exc:
            flaws[str(tool.id)] = str(exc)
    return [registered.tool for registered in fitting.tools()], flaws


def _text(exc: Exception) -> str:
    return masked(str(exc) if isinstance(exc, SandboxError) else f"{type(exc).__name__}: {exc}")


def _raise_together(failures: list[Exception]) -> None:
    if failures:
        raise ExceptionGroup("not every source closed cleanly", failures)
