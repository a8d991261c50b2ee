"""Tools that stream, for the tests of every language."""

from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.lowlevel

from sandbox import Exec, ToolContext


def register_streaming_tools(host: Exec) -> None:
    for function in (count, endless):
        host.tool(namespace="stream")(function)
    for talking in (spell, hesitate):
        host.tool(namespace="stream", tags=["talk"])(talking)


async def count(to: int, context: ToolContext, fail_at: int = -1) -> AsyncIterator[int]:
    """Count, and say so."""
    for number in range(to):
        context.report(f"at {number}", progress=number, total=to)
        if number == fail_at:
            raise ValueError(f"no {number}")
        yield number


def spell(text: str) -> Iterator[str]:
    """Letter by letter, from a worker thread."""
    yield from text


async def hesitate() -> AsyncIterator[str]:
    """One word, and no other."""
    yield "well"
    await anyio.sleep_forever()


async def endless() -> AsyncIterator[str]:
    """Never stops by itself."""
    while True:
        yield "x" * 100_000
        await anyio.lowlevel.checkpoint()
