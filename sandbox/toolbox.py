"""The tools of one `AsyncExec`: registering them, and calling and finding them from the host."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack, overload

import anyio

from gateway.artifacts import Artifact
from gateway.base import (
    CallOutcome,
    ChainResult,
    ChainStep,
    DetailLevel,
    Gateway,
    JsonValue,
    ParallelCall,
    ToolEvent,
    ToolPage,
    ToolSummary,
)
from gateway.context import ANYBODY, Caller
from gateway.correction import Correct, run_corrected
from gateway.errors import Closed, InvalidRequest
from gateway.grant import Grant
from gateway.ids import new_execution_id
from gateway.journal.base import ToolCall
from gateway.pipeline import Pipeline
from gateway.policies.base import CircuitState, HasCircuits
from gateway.providers.base import Provider
from gateway.providers.function import ToolOptions, function_tool
from gateway.secrets import trace
from gateway.selection import Decision, Selection, ToolGroup
from gateway.selection.provider import group_tool
from gateway.selection.selection import context_of
from gateway.tools.access import permits, stubs_for
from gateway.tools.export import Exported, ExportFormat, export
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry
from sandbox.request import allowed

if TYPE_CHECKING:
    from runtimes.check import Diagnostic

Function = TypeVar("Function", bound=Callable[..., Any])

CLOSE_SECONDS = 10.0
"""How long one provider may take to close."""


class OpenGateway(Protocol):
    """Makes a gateway with the rights of a grant."""

    def __call__(self, grant: Grant, on_call: Callable[[ToolCall], None] | None = None, /) -> Gateway: ...


_log = logging.getLogger(__name__)


class Toolbox:
    """What an `AsyncExec` does with tools. Calls of the host are validated and recorded like a guest's.

    Wherever a `caller` can be given, it decides which tools there are, by their roles, and providers see it.
    """

    def __init__(self, registry: ToolRegistry, gateway: "OpenGateway", pipeline: Pipeline) -> None:
        self.registry = registry
        """The tools: to remove, enable, disable and watch them."""
        self._open_gateway = gateway
        self._pipeline = pipeline
        self.selection = Selection(pipeline)
        """What groups of tools have learnt: statistics, the best tool, saving and loading."""
        self._closed = False

    @overload
    def tool(self, function: Function, /) -> Function: ...

    @overload
    def tool(self, function: None = None, /, **options: Unpack[ToolOptions]) -> Callable[[Function], Function]: ...

    def tool(self, function: Any = None, /, **options: Any) -> Any:
        """Register a function as a tool; a decorator, with or without options.

        The function may be sync, async, or a generator, whose chunks are streamed. Its name, description and schemas
        come from its name, docstring and annotations; a parameter annotated `ToolContext` gets the call's context.
        Returns the function unchanged. Raises InvalidRequest when the signature cannot be a tool's or the id is taken.
        """
        if function is None:
            return partial(self.tool, **options)
        self.register(function_tool(function, **options))
        return function

    def register(self, *tools: Tool) -> None:
        """Add tools, all or none. Raise InvalidToolId, InvalidRequest: also for policies that do not fit their tool."""
        self.registry.register_all(tools)

    def unregister(self, *tool_ids: str) -> None:
        """Remove tools; calls under way go on. Raise InvalidToolId or ToolNotFound."""
        for tool_id in tool_ids:
            self.registry.unregister(tool_id)

    async def run_tool(
        self,
        tool_id: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        caller: Caller = ANYBODY,
        timeout_seconds: float | None = None,
        correct: Correct | None = None,
        on_artifact: Callable[[Artifact], None] | None = None,
    ) -> JsonValue:
        """Call one tool. `timeout_seconds` can only shorten the tool's own. Raises a ToolError.

        `correct` is asked for other arguments when they do not fit, at most twice; every try is a call of its own in
        the records, under one execution id.

        `on_artifact` gets what the tool attached, and tools that it called, as soon as each call has succeeded.
        """
        gateway = self._gateway(caller, None if on_artifact is None else partial(_hand_over, on_artifact))
        if correct is None:
            return await gateway.run_tool(tool_id, arguments or {}, timeout_seconds=timeout_seconds)
        run = partial(gateway.run_tool, tool_id, timeout_seconds=timeout_seconds)
        return await run_corrected(run, tool_id, arguments or {}, correct)

    def register_group(
        self, group: ToolGroup, *, description: str = "", input_schema: Mapping[str, Any] | None = None
    ) -> None:
        """Make a group a tool of its name: a call of it is one of the member that is chosen, for snippets too.

        Its input is that of the first member unless a schema says otherwise. Raises InvalidRequest.
        """
        self.register(
            group_tool(self.selection, self.registry, group, description=description, input_schema=input_schema)
        )

    async def select_tool(
        self,
        group: ToolGroup | str,
        *,
        context: Mapping[str, JsonValue] | None = None,
        caller: Caller = ANYBODY,
    ) -> Decision:
        """Choose one of a group's tools, of those that this caller may call and that can be used now.

        Tell `record_feedback` how it went, within an hour. Raises InvalidRequest, and ToolUnavailable when there is
        none.
        """
        return self.selection.select(group, caller, partial(permits, Grant(caller=caller)), context)

    async def record_feedback(self, decision_id: str, *, success: bool, latency_seconds: float) -> bool:
        """Learn from a call of the tool that was chosen, once; False when there is no such decision any more."""
        return self.selection.feedback(decision_id, success=success, latency_seconds=latency_seconds)

    async def run_selected(
        self,
        group: ToolGroup | str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        context: Mapping[str, JsonValue] | None = None,
        caller: Caller = ANYBODY,
        timeout_seconds: float | None = None,
    ) -> JsonValue:
        """Choose a tool of the group, call it, and learn from how it went.

        `context` None stands for the caller's tenant, user, role, locale and timezone, and the plain arguments.
        """
        given = arguments or {}
        found: JsonValue = await self.selection.run(
            group,
            lambda tool_id: self.run_tool(tool_id, given, caller=caller, timeout_seconds=timeout_seconds),
            caller,
            partial(permits, Grant(caller=caller)),
            context_of(caller, given) if context is None else context,
        )
        return found

    async def stream_tool(
        self,
        tool_id: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        caller: Caller = ANYBODY,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[ToolEvent, None]:
        """Call one tool and yield what happens as it happens; the last event is `done` or `error`.

        `timeout_seconds` bounds each wait for the tool. Leaving the loop early ends the call.
        """
        events = self._gateway(caller).stream_tool(tool_id, arguments or {}, timeout_seconds=timeout_seconds)
        async with aclosing(events):
            async for event in events:
                yield event

    async def run_chain(
        self, steps: Sequence[ChainStep], *, caller: Caller = ANYBODY, timeout_seconds: float | None = None
    ) -> ChainResult:
        """Call tools one after another; a step may take arguments from earlier results."""
        return await self._gateway(caller).run_chain(steps, timeout_seconds=timeout_seconds)

    async def stream_chain(
        self, steps: Sequence[ChainStep], *, caller: Caller = ANYBODY, timeout_seconds: float | None = None
    ) -> AsyncGenerator[ToolEvent, None]:
        """The same, and yield what happens: a `chunk` for each step as it ends, `progress` in steps, then `done` with
        the chain's value, or `error` when it could not begin. The next step begins when it is asked for: leaving the
        loop early makes no more.
        """
        events = self._gateway(caller).stream_chain(steps, timeout_seconds=timeout_seconds)
        async with aclosing(events):
            async for event in events:
                yield event

    async def run_parallel(
        self,
        calls: Sequence[ParallelCall],
        *,
        caller: Caller = ANYBODY,
        max_concurrent: int | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[CallOutcome, ...]:
        """Call tools at once; outcomes come in the order of the calls, and so do writes to one resource."""
        return await self._gateway(caller).run_parallel(
            calls, max_concurrent=max_concurrent, timeout_seconds=timeout_seconds
        )

    async def search_tools(
        self,
        query: str,
        limit: int = 10,
        *,
        namespace: str | None = None,
        tags: Sequence[str] = (),
        caller: Caller = ANYBODY,
    ) -> tuple[ToolSummary, ...]:
        """The tools that fit the words of `query` best; an empty query lists them by id."""
        return await self._gateway(caller).search_tools(query, limit, namespace=namespace, tags=tags)

    async def list_tools(
        self,
        limit: int = 100,
        cursor: str | None = None,
        *,
        query: str = "",
        namespace: str | None = None,
        tags: Sequence[str] = (),
        caller: Caller = ANYBODY,
    ) -> ToolPage:
        """The tools by id, or the best fits for `query` first, page by page; `cursor` is that of the page before.

        Raises InvalidCursor.
        """
        return await self._gateway(caller).list_tools(limit, cursor, query=query, namespace=namespace, tags=tags)

    async def describe_tool(
        self, tool_id: str, level: DetailLevel = "summary", *, caller: Caller = ANYBODY
    ) -> dict[str, JsonValue]:
        """What a tool is for and how to call it: `summary`, `schema` or `full`."""
        return await self._gateway(caller).describe_tool(tool_id, level)

    async def list_namespaces(self, *, caller: Caller = ANYBODY) -> tuple[str, ...]:
        """The namespaces of the tools, sorted; the empty one stands for tools without."""
        return await self._gateway(caller).list_namespaces()

    async def list_tool_examples(
        self, tool_id: str, limit: int = 5, *, caller: Caller = ANYBODY
    ) -> tuple[dict[str, JsonValue], ...]:
        """Worked examples of calls to a tool."""
        return await self._gateway(caller).list_tool_examples(tool_id, limit)

    async def export_tools(
        self, form: ExportFormat, *, allowed_tools: Iterable[str] | None = None, caller: Caller = ANYBODY
    ) -> Exported:
        """The tools as others list them: `mcp`, `openai`, `anthropic`, `gemini`, or `a2a` for an agent's skills."""
        grant = _grant(allowed_tools, caller)
        return export((tool for tool in self.registry.tools() if permits(grant, tool)), form)

    async def tool_stubs(self, *, allowed_tools: Iterable[str] | None = None, caller: Caller = ANYBODY) -> str:
        """The module `tools` with all its types, as the text of a `.pyi` file: for a model to read before it writes."""
        return await stubs_for(_grant(allowed_tools, caller), self.registry)

    async def check_code(
        self, code: str, *, allowed_tools: Iterable[str] | None = None, caller: Caller = ANYBODY
    ) -> "tuple[Diagnostic, ...]":
        """What would go wrong in a Python snippet by the types of its tools; nothing is run. Raises MissingExtra."""
        from runtimes.check import check_snippet  # noqa: PLC0415 - an extra's, and not needed by most

        return await check_snippet(code, await self.tool_stubs(allowed_tools=allowed_tools, caller=caller))

    async def check_tool(self, tool_id: str) -> None:
        """Return when what the tool needs is there, raise what is wrong otherwise; its work is not done."""
        found = await self.registry.lookup(tool_id) or self.registry.resolve(tool_id)
        with self._lending():
            await found.tool.provider.health()

    async def circuits(self, tenant_id: str | None = None) -> dict[str, CircuitState]:
        """By tool id, the state of each tool that has a circuit breaker: `closed`, `open` or `half_open`.

        Where tenants have circuits of their own it is that of `tenant_id`, or (None) the worst of all.
        """
        breakers = self._pipeline.policies("breaker").items()
        return {tool_id: each.state(tenant_id) for tool_id, each in breakers if isinstance(each, HasCircuits)}

    async def reset_circuit(self, tool_id: str) -> None:
        """Close a tool's circuits. Raises ToolNotFound, and InvalidRequest for a tool that has none."""
        _, breaker = self._pipeline.policy_of(tool_id, "breaker")
        if not isinstance(breaker, HasCircuits):
            raise InvalidRequest(f"tool {tool_id!r} has no circuit breaker; give it one with policies=")
        breaker.reset()

    async def _close_tools(self) -> None:
        """Close every provider, each once, and at the same time."""
        providers = {id(tool.tool.provider): tool.tool.provider for tool in self.registry.tools()}
        async with anyio.create_task_group() as closing:
            for provider in providers.values():
                closing.start_soon(_close, provider)

    def _lending(self) -> AbstractContextManager[None]:
        """Within it providers may ask for the host's secrets."""
        secrets = self._pipeline.secrets
        return nullcontext() if secrets is None else secrets.lent()

    def _gateway(self, caller: Caller, on_call: Callable[[ToolCall], None] | None = None) -> Gateway:
        """The host's own gateway: no budget, recorded under an id of its own."""
        return self._with_rights(Grant(execution_id=f"host-{new_execution_id()}", caller=caller), on_call)

    def _with_rights(self, grant: Grant, on_call: Callable[[ToolCall], None] | None = None) -> Gateway:
        if self._closed:
            raise Closed("Exec")
        return self._open_gateway(grant, on_call)


def open_gateway(toolbox: Toolbox, grant: Grant) -> Gateway:
    """The tools with the rights of `grant`: for a server that stands between them and its clients. Raises Closed."""
    return toolbox._with_rights(grant)


def _hand_over(on_artifact: Callable[[Artifact], None], call: ToolCall) -> None:
    for artifact in call.artifacts:
        on_artifact(artifact)


def _grant(allowed_tools: Iterable[str] | None, caller: Caller) -> Grant:
    return Grant(allowed_tools=None if allowed_tools is None else allowed(allowed_tools), caller=caller)


async def _close(provider: Provider) -> None:
    try:
        with anyio.fail_after(CLOSE_SECONDS):
            await provider.aclose()
    except Exception as exc:  # noqa: BLE001 - one that cannot be closed must not keep the others open
        _log.error("a provider of class %s could not be closed: %s", type(provider).__name__, trace(exc))
