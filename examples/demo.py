"""An agent's snippet calls the host's tools from a sandbox; then a hostile snippet meets its limits.

Run it with `make demo`. Times are this machine's; everything else is the same on each run.
"""

import asyncio
from collections.abc import Iterator
from textwrap import indent

from rich.console import Console

from sandbox import AsyncExec, ExecutionResult, Limits

CATALOGUE = {"lamp": 39.0, "desk": 249.0, "chair": 119.0, "shelf": 89.0}
STOCK = {"lamp": 12, "desk": 0, "chair": 3, "shelf": 7}
WAREHOUSE_SECONDS = 0.04

AGENT = """\
import asyncio

hits = tools.search_tools("stock of an item")
print("found:", [hit["id"] for hit in hits])

items = tools.catalogue.list_items()
stock = await asyncio.gather(*(tools.aio.warehouse.stock(item=item) for item in items))
available = {item: count for item, count in zip(items, stock) if count}
print("in stock:", available)

total = 0
for item in available:
    total += tools.catalogue.price(item=item)

try:
    tools.warehouse.order(item="desk")
except tools.ToolError as error:
    print("refused:", error)

{"items": len(available), "total": total}
"""

HOSTILE = """\
import os
print("environment:", dict(os.environ))
for path in ("/etc/passwd", "/proc/self/environ"):
    try:
        print(open(path).read())
    except OSError as error:
        print(f"{path}: {error.strerror}")
print("now I keep your processor for ever", flush=True)
while True:
    pass
"""

LIMITS = Limits(wall_seconds=5, cpu_seconds=2, memory_bytes=128 << 20, output_bytes=64 << 10, tool_calls=20)
BAR_WIDTH = 36
FIRST_TIME = "compiling the guest; only the first time (about 5 s)"

screen = Console(highlight=False, soft_wrap=True)


def register(sandboxes: AsyncExec) -> None:
    """The host's tools: plain functions, sync or async. Schemas come from their signatures."""

    @sandboxes.tool(namespace="catalogue")
    def list_items() -> list[str]:
        """Every item that is sold."""
        return sorted(CATALOGUE)

    @sandboxes.tool(namespace="catalogue")
    def price(item: str) -> float:
        """What an item costs, in euros."""
        return CATALOGUE[item]

    @sandboxes.tool(namespace="warehouse")
    async def stock(item: str) -> int:
        """How many of an item are in stock."""
        await asyncio.sleep(WAREHOUSE_SECONDS)
        return STOCK[item]

    @sandboxes.tool(namespace="warehouse")
    def order(item: str) -> str:
        """Order an item."""
        return f"ordered {item}"


async def main() -> None:
    async with AsyncExec(profile="standard") as sandboxes:
        register(sandboxes)
        await warm_up(sandboxes)
        agent = await run_agent(sandboxes)
        show_calls(agent)
        show_isolation(agent)
        await run_hostile(sandboxes)


async def warm_up(sandboxes: AsyncExec) -> None:
    """The first sandbox on a machine takes seconds: its guest is compiled, once. Say so."""
    probing = asyncio.ensure_future(sandboxes.probe())
    done, _ = await asyncio.wait([probing], timeout=1)
    if not done:
        aside = Console(stderr=True)
        if not aside.is_terminal:
            aside.print(FIRST_TIME)
        with aside.status(FIRST_TIME):  # a spinner on a terminal, nothing elsewhere
            await probing


async def run_agent(sandboxes: AsyncExec) -> ExecutionResult:
    title("1. An agent's snippet, in a sandbox, under profile standard")
    show(indent(AGENT.rstrip(), "    "), style="cyan")
    show("\nIt may call catalogue:* and warehouse:stock, and nothing else. It wrote, and gave back:\n")
    result = await sandboxes.execute_code(AGENT, allowed_tools=["catalogue:*", "warehouse:stock"], limits=LIMITS)
    show_output(result)
    return result


async def run_hostile(sandboxes: AsyncExec) -> None:
    title("4. A hostile snippet, given one second")
    show(indent(HOSTILE.rstrip(), "    "), style="cyan")
    show("\nIt wrote, until it was stopped:\n")
    result = await sandboxes.execute_code(HOSTILE, allowed_tools=[], limits={"wall_seconds": 1})
    show_output(result)


def show_output(result: ExecutionResult) -> None:
    show(indent(result.stdout.rstrip(), "    "), style="green")
    show("")
    if result.ok:
        show(f"  value    {result.value}")
    show(f"  outcome  {result.summary()}, after {result.duration_seconds * 1000:.1f} ms", style="bold")


def show_calls(result: ExecutionResult) -> None:
    title("2. Every call it made, as the host recorded it")
    first = result.tool_calls[0].started_at
    starts = [(call.started_at - first).total_seconds() for call in result.tool_calls]
    scale = BAR_WIDTH / max(
        start + call.duration_seconds for start, call in zip(starts, result.tool_calls, strict=True)
    )
    for start, call in zip(starts, result.tool_calls, strict=True):
        bar = " " * int(start * scale) + "=" * max(1, int(call.duration_seconds * scale))
        took = f"{call.duration_seconds * 1000:.1f} ms"
        show(f"  {call.tool_id:<21} {call.status:<9} {took:>9}  |{bar[:BAR_WIDTH]:<{BAR_WIDTH}}|")


def show_isolation(result: ExecutionResult) -> None:
    title("3. What held it, read back from the kernel, and its limits")
    for label, fact in isolation(result):
        show(f"  {label:<22} {fact}")
    show("")
    for name, value in result.limits.asked().items():
        show(f"  {name:<22} {value:<10} {'enforced' if name in result.enforced else 'NOT enforced'}")


def isolation(result: ExecutionResult) -> Iterator[tuple[str, str]]:
    """The worker process around the WebAssembly runtime: a guest that broke out of that would find this."""
    found = result.evidence["confinement"]
    yield "first boundary", f"WebAssembly, on backend {result.backend}"
    yield "second boundary", "a worker process that gave up its rights:"
    yield "  system calls", "filtered by seccomp" if found["Seccomp"] == "2" else "NOT filtered"
    yield "  files", f"confined by Landlock, ABI {found['landlock_abi']}" if found["landlock_abi"] else "NOT confined"
    yield "  capabilities", "none" if int(found["CapEff"], 16) == 0 else f"SOME: {found['CapEff']}"
    yield "  new privileges", "impossible" if found["NoNewPrivs"] == "1" else "POSSIBLE"
    for reason in result.evidence["missing"]:
        yield "  missing", reason


def title(text: str) -> None:
    show(f"\n{text}\n", style="bold")


def show(text: str, style: str = "") -> None:
    """What a guest wrote is shown with its control characters made visible."""
    safe = "".join(char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text)
    screen.print(safe, style=style or None, markup=False)


if __name__ == "__main__":
    asyncio.run(main())
