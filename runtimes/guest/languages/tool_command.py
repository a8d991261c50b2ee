"""The command `tool` of bash snippets."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias

from runtimes.guest.languages.asker import Asker
from runtimes.guest.languages.command_line import Misuse
from runtimes.guest.languages.tool_line import USAGE, Line, read_line
from runtimes.guest.tools import Tools, Transport

FAILED = 1
"""Exit code when a call fails."""

Events: TypeAlias = AsyncGenerator[dict[str, Any], None]


class ToolCommand:
    """Answers the command `tool`."""

    def __init__(self, transport: Transport) -> None:
        self._tools = Tools(transport)

    def run(self, arguments: Sequence[str], stdin: str, asker: Asker) -> int:
        """Do what a command line asks for; its exit code. Raises Misuse or ToolError."""
        line = read_line(arguments, stdin)
        with _misuse():
            match line.use:
                case "--help":
                    asker.print(USAGE)
                    return 0
                case "--stream":
                    return self._stream(line, asker)
                case "--chain":
                    return self._stream_chain(line, asker) if "--stream" in line.options else self._chain(line, asker)
                case "--parallel":
                    return self._parallel(line, asker)
            value = self._call(line) if line.use == "" else self._found(line)
        asker.print(f"{value}\n" if "-r" in line.options and isinstance(value, str) else _json_line(value))
        return 0

    def _call(self, line: Line) -> Any:
        tool_id, arguments = line.call()
        return self._tools.run_tool(tool_id, arguments, timeout_seconds=line.timeout_seconds)

    def _stream(self, line: Line, asker: Asker) -> int:
        tool_id, arguments = line.call()
        return _streamed(self._tools.aio.stream_tool(tool_id, arguments, timeout_seconds=line.timeout_seconds), asker)

    def _stream_chain(self, line: Line, asker: Asker) -> int:
        steps, outcomes = line.items(), list[Any]()
        events = self._tools.aio.stream_chain(steps, timeout_seconds=line.timeout_seconds)
        return _streamed(events, asker, outcomes) or _chain_status(steps, outcomes, asker)

    def _chain(self, line: Line, asker: Asker) -> int:
        steps = line.items()
        result = self._tools.run_chain(steps, timeout_seconds=line.timeout_seconds)
        asker.print(_json_line(result))
        return _chain_status(steps, result["steps"], asker)

    def _parallel(self, line: Line, asker: Asker) -> int:
        most = line.number("--max-concurrent", int)
        calls = line.items()
        outcomes = self._tools.run_parallel(calls, max_concurrent=most, timeout_seconds=line.timeout_seconds)
        asker.print(_json_line(outcomes))
        status = 0
        for index, outcome in enumerate(outcomes):
            if not outcome["ok"]:
                status = _failed(asker, f"calls[{index}] ", outcome)
        return status

    def _found(self, line: Line) -> Any:
        filters: dict[str, Any] = {"namespace": line.text("--namespace"), "tags": line.options.get("--tag", ())}
        limit = line.number("--limit", int)
        bound = {} if limit is None else {"limit": limit}
        match line.use:
            case "--list":
                return list(self._all(query=" ".join(line.words), **filters))
            case "--search":
                return self._tools.search_tools(" ".join(line.words), **bound, **filters)
            case "--describe":
                return self._tools.describe_tool(line.given, "full")
            case "--examples":
                return self._tools.list_tool_examples(line.given, **bound)
        return self._tools.list_namespaces()

    def _all(self, **filters: Any) -> Iterator[Any]:
        page: dict[str, Any] = {"cursor": None}
        while True:
            page = self._tools.list_tools(cursor=page["cursor"], **filters)
            yield from page["tools"]
            if page["cursor"] is None:
                return


def _streamed(events: Events, asker: Asker, chunks: list[Any] | None = None) -> int:
    """Print the events as they come, and keep the chunks. When the asker goes away, the stream is closed."""
    try:
        last = asyncio.run(_pass_on(events, asker, chunks))
    except asyncio.CancelledError:
        return FAILED  # which nobody hears
    return _failed(asker, "", last) if last["error"] is not None else 0


async def _pass_on(events: Events, asker: Asker, chunks: list[Any] | None) -> dict[str, Any]:
    loop, task, event = asyncio.get_running_loop(), asyncio.current_task(), {}
    assert task is not None

    def gone() -> None:
        loop.remove_reader(asker.connection)
        task.cancel()

    loop.add_reader(asker.connection, gone)
    async with aclosing(events):
        async for event in events:
            asker.print(_json_line(event))
            if chunks is not None and event["kind"] == "chunk":
                chunks.append(event["data"])
    return event


def _chain_status(steps: Sequence[Mapping[str, Any]], outcomes: Sequence[Mapping[str, Any]], asker: Asker) -> int:
    made = [outcome for outcome in outcomes if not outcome["skipped"]]
    if not made or made[-1]["ok"]:
        return 0
    # Only the last one can have stopped it: by its own wish, or, where more would follow, because time was up.
    stopped = steps[len(made) - 1].get("stop_on_error", True) or len(made) < len(steps)
    return _failed(asker, f"steps[{len(made) - 1}] ", made[-1]) if stopped else 0


@contextmanager
def _misuse() -> Iterator[None]:
    """What Python snippets are told of arguments that make no sense."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise Misuse(str(error)) from None


def _failed(asker: Asker, which: str, outcome: Mapping[str, Any]) -> int:
    name = f"{outcome['tool_id']}: " if which else ""
    asker.complain(f"tool: {which}{name}{outcome['error']['message']} ({outcome['error']['code']})\n")
    return FAILED


def _json_line(value: Any) -> str:
    return f"{json.dumps(value, ensure_ascii=False)}\n"
