"""Events as they happen: output, tool calls, artifacts, and at last the result. Leaving early ends the execution."""

import asyncio
from contextlib import aclosing

from sandbox import AsyncExec

SNIPPET = """
for step in range(1, 4):
    print("step", step, "gives", tools.work(step=step), flush=True)
open("log.txt", "w").write("done")
"three steps"
"""


async def main() -> None:
    async with AsyncExec() as exec:

        @exec.tool
        async def work(step: int) -> int:
            """Something slow."""
            await asyncio.sleep(0.05)
            return step * step

        async for event in exec.stream_code(SNIPPET):
            match event.kind:
                case "started":
                    print("started on", event.backend)
                case "output":
                    print(event.text, end="", flush=True)  # in pieces of any size, as it was written
                case "tool_call_started" | "tool_call_finished" if event.tool_call is not None:
                    print(f"{event.kind}: {event.tool_call.tool_id} {event.tool_call.arguments}")
                case "artifact" if event.artifact is not None:
                    print("artifact:", event.artifact.path)
                case "finished" if event.result is not None:
                    print("finished:", event.result.summary(), event.result.value)

        # `aclosing` ends the execution as soon as the loop is left.
        async with aclosing(
            exec.stream_code("import itertools\nfor n in itertools.count(): print(n, flush=True)")
        ) as events:
            async for event in events:
                if event.kind == "output":
                    print("first output seen, so much for counting to infinity")
                    break


asyncio.run(main())
