"""All of it in one: tools with docs, search, calls, a chain, a stream, and snippets that are checked and then run."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sandbox import Caller, ChainStep, Exec, ToolExample

OPERATIONS = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
}


@dataclass
class Counts:
    characters: int
    words: int
    lines: int


CODE = """
import asyncio

text = tools.text.format_text(text="Hello World", style="upper")
counts = tools.text.analyze_text(text=text)
sums = await asyncio.gather(*(tools.aio.calculate(operation="multiply", a=n, b=n) for n in range(4)))
{"text": text, "words": counts["words"], "squares": sums}
"""

with Exec() as exec:

    @exec.tool(
        tags=["math"],
        read_only=True,
        notes="Division by zero is an error.",
        examples=[ToolExample("ten and five", {"operation": "add", "a": 10, "b": 5}, "15")],
    )
    def calculate(operation: Literal["add", "subtract", "multiply", "divide"], a: float, b: float) -> float:
        """A calculator for two numbers."""
        return float(OPERATIONS[operation](a, b))

    @exec.tool(namespace="text", read_only=True)
    def format_text(text: str, style: Literal["upper", "lower", "title"]) -> str:
        """Change the case of a text."""
        return str(getattr(text, style)())

    @exec.tool(namespace="text", read_only=True)
    def analyze_text(text: str) -> Counts:
        """Count characters, words and lines."""
        return Counts(len(text), len(text.split()), text.count("\n") + 1)

    @exec.tool(namespace="text", read_only=True)
    def split_text(text: str) -> Iterator[str]:
        """The words of a text, one by one."""
        yield from text.split()

    @exec.tool(namespace="admin", roles=["operator"])
    def restart() -> str:
        """Restart the service."""
        return "restarted"

    print("search:", [hit.id for hit in exec.search_tools("calculator")])
    print("call:", exec.run_tool("calculate", {"operation": "add", "a": 10, "b": 5}))

    chain = exec.run_chain(
        [
            ChainStep("text:format_text", {"text": "hello world", "style": "upper"}),
            ChainStep("text:analyze_text", {}, mapping={"text": "/previous"}),
        ]
    )
    print("chain:", chain.value)

    about = exec.describe_tool("calculate", "full")
    print("docs:", about["description"], about["notes"], about["examples"])

    events = exec.stream_tool("text:split_text", {"text": "one two three"})
    print("stream:", [(event.kind, event.data) for event in events])

    print("mistakes:")
    for mistake in exec.check_code(CODE.replace('style="upper"', 'style="UPPER"').replace("counts[", "count[")):
        print("   ", mistake)

    result = exec.execute_code(CODE, check=True)
    print("snippet:", result.value)
    print("calls:", [call.tool_id for call in result.tool_calls])

    # A tool with roles is not there for others: not to find, and not to call.
    for caller in (Caller(role="guest"), Caller(role="operator")):
        namespaces = exec.execute_code("tools.list_namespaces()", caller=caller).value
        print(f"{caller.role}:", namespaces)
