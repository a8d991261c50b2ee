"""Measures what docs/performance.md reports, each figure beside a reference from the same run.

    python benchmarks/run.py [--quick] [--json FILE]

Prints a table, and with `--json` writes the figures. Nothing else should run on the machine meanwhile.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import uvloop
from containers import container_figures
from figures import MB, MS, US, Figure, one_after_another, reference, settled, spread, timed, tool_calls
from rich.console import Console
from rich.table import Table

from gateway._grpc import grpc
from gateway.endpoint import GRPC_ENVIRONMENT
from gateway.v1 import gateway_pb2 as pb
from sandbox import AsyncExec

PYTHON = (sys.executable, "-I", "-c", "print(1 + 1)")


async def rate(host: AsyncExec, concurrency: int, count: int) -> float:
    async def caller() -> None:
        await one_after_another(host, count // concurrency, 0)

    seconds = await timed(lambda: asyncio.gather(*(caller() for _ in range(concurrency))))
    return count / seconds


async def wasm_latency(count: int) -> list[Figure]:
    started = time.perf_counter()
    async with AsyncExec() as host:
        await host.execute_code("1 + 1")
        cold = time.perf_counter() - started
        await asyncio.sleep(1.5)
        paced = await one_after_another(host, count, 0.02)
        back_to_back = await one_after_another(host, count, 0)
    return [
        Figure("wasm: cold, from AsyncExec() to the first result", "ms", cold * MS),
        spread("wasm: execute 1 + 1, 20 ms apart", "ms", paced, MS, target=2.0),
        spread("wasm: execute 1 + 1, back to back", "ms", back_to_back, MS),
    ]


async def wasm_rates(count: int) -> list[Figure]:
    figures = []
    async with AsyncExec() as host:
        for concurrency in (1, 8, 64):
            await settled(host)
            per_second = await rate(host, concurrency, count)
            target = 300.0 if concurrency == 8 else None
            name = f"wasm: fresh guests, {concurrency} at a time"
            figures.append(Figure(name, "/s", per_second, target=target, more_is_better=True))
    return figures


async def grpc_echo(count: int) -> list[Figure]:
    """The floor of a tool call: the same transport, with nothing behind it."""

    async def echo(frames: AsyncIterator[pb.GuestFrame], _context: object) -> AsyncIterator[pb.HostFrame]:
        async for frame in frames:
            yield pb.HostFrame(tool_reply=pb.ToolReply(id=frame.tool_call.id, value=b"2"))

    handler = grpc.stream_stream_rpc_method_handler(
        echo, request_deserializer=pb.GuestFrame.FromString, response_serializer=pb.HostFrame.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"Echo": handler}),))
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/echo.sock"
        server.add_insecure_port(address)
        await server.start()
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("echo_client.py")), address, str(count)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **GRPC_ENVIRONMENT},
        )
        output, _ = await client.communicate()
        await server.stop(0)
    return [spread("reference: gRPC round trip on a Unix socket", "µs", json.loads(output), US)]


async def wasm_memory() -> list[Figure]:
    few, many = 4, 68
    private = [await private_bytes(size) for size in (few, many)]
    if 0 in private:
        return []
    each = (private[1] - private[0]) / (many - few)
    return [Figure("wasm: private memory of a live guest", "MB", each / MB, target=2.0)]


async def private_bytes(guests: int) -> int:
    """Of all workers, with this many guests alive; 0 where the kernel does not tell."""
    async with AsyncExec(pool_size=guests) as host:
        await settled(host)
        return _children_private()


def _children_private() -> int:
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    return sum(_private(Path("/proc", child, "smaps_rollup")) for child in children)


def _private(rollup: Path) -> int:
    try:
        lines = rollup.read_text().splitlines()[1:]
    except OSError:
        return 0
    sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["Private_Clean"] + sizes["Private_Dirty"]


async def unsafe_latency(count: int) -> list[Figure]:
    options = {"profile": "dev", "backend": "unsafe"}
    async with AsyncExec(allow_unsafe=True) as host:
        await settled(host, **options)
        warm = await one_after_another(host, count, 0.5, **options)
    return [spread("unsafe: execute 1 + 1, warm", "ms", warm, MS, target=10.0)]


def import_time(count: int) -> list[Figure]:
    code = "import time; t = time.perf_counter(); import sandbox; print(time.perf_counter() - t)"
    seconds = [float(subprocess.check_output((sys.executable, "-c", code))) for _ in range(count)]
    return [spread("import sandbox", "ms", seconds, MS, target=250.0)]


async def measure(share: float) -> list[Figure]:
    def some(count: int) -> int:
        return max(10, int(count * share))

    return [
        *reference("reference: python -c 'print(1 + 1)'", PYTHON, some(20)),
        *import_time(some(10)),
        *await wasm_latency(some(200)),
        *await wasm_rates(some(1280)),
        *await grpc_echo(some(2000)),
        await tool_calls("wasm", some(2000), target=350.0),
        *await wasm_memory(),
        *await unsafe_latency(some(20)),
        *await container_figures(some),
    ]


def show(figures: list[Figure]) -> None:
    table = Table("what", "p50", "p95", "target", "reached")
    for figure in figures:
        p95 = "" if figure.p95 is None else f"{figure.p95:.2f}"
        sign = "≥" if figure.more_is_better else "≤"
        target = "" if figure.target is None else f"{sign} {figure.target:g}"
        reached = {None: "", True: "yes", False: "no"}[figure.reached]
        table.add_row(figure.name, f"{figure.p50:.2f} {figure.unit}", p95, target, reached)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = uvloop.run(measure(0.1 if options.quick else 1.0))
    show(figures)
    if options.json:
        facts = {"machine": platform.platform(), "python": platform.python_version()}
        options.json.write_text(json.dumps({**facts, "figures": [asdict(figure) for figure in figures]}, indent=2))


if __name__ == "__main__":
    main()
