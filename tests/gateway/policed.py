"""What the tests of policies share: tools behind a pipeline whose clock, chance and store are the test's."""

import subprocess
import sys
import textwrap
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.base import JsonValue, ToolEvent
from gateway.context import ANYBODY, Caller, ToolContext
from gateway.direct import DirectGateway
from gateway.grant import Grant
from gateway.journal.base import CallFinished
from gateway.journal.memory import MemoryJournal
from gateway.pipeline import Pipeline
from gateway.policies.base import NO_POLICIES, Call, Policies, Services
from gateway.policies.store import MemoryStore, Store
from gateway.runner import Runner
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch

Answer = TypeVar("Answer")


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Host:
    """Some tools, and what was recorded of their calls and told to observers."""

    def __init__(self, *tools: Tool, store: Store | None = None, defaults: Policies = NO_POLICIES) -> None:
        self.clock = Clock()
        self.store = store or MemoryStore(clock=self.clock)
        self.registry = ToolRegistry(tools)
        self.search = ToolSearch(self.registry)
        self.journal = MemoryJournal()
        services = Services(clock=self.clock, store=self.store)
        self.pipeline = Pipeline(Runner(self.registry), services, defaults=defaults)

    def gateway(self, caller: Caller = ANYBODY, **grant: Any) -> DirectGateway:
        rights = Grant(execution_id="e", caller=caller, **grant)
        return DirectGateway(rights, self.pipeline, self.registry, self.search, self.journal)

    async def call(self, tool_id: str, *, caller: Caller = ANYBODY, **arguments: JsonValue) -> JsonValue:
        return await self.gateway(caller).run_tool(tool_id, arguments)

    async def stream(self, tool_id: str, *, caller: Caller = ANYBODY, **arguments: JsonValue) -> list[ToolEvent]:
        """All events of a call."""
        events = self.gateway(caller).stream_tool(tool_id, arguments)
        try:
            return [event async for event in events]
        finally:
            await events.aclose()

    async def finished(self) -> list[CallFinished]:
        """The ends of all calls, in order."""
        return [record for record in await self.journal.records("e") if isinstance(record, CallFinished)]

    def key(self, tool_id: str, arguments: dict[str, JsonValue], caller: Caller = ANYBODY) -> str:
        """The idempotency key of a call."""
        tool = self.registry.resolve(tool_id)
        call = Call(tool=tool, arguments=arguments, context=ToolContext(tool_id=tool.id, caller=caller))
        self.pipeline.prepare(call)
        return call.key


def at_once(work: Coroutine[Any, Any, Answer]) -> Answer:
    """What a coroutine that never waits gives, without an event loop."""
    try:
        work.send(None)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("it waits")


def process(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Another Python process with a program of its own; `sys.argv[1:]` are the arguments."""
    argv = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
