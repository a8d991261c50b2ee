"""Sandboxes: starting them, running snippets in them, calling tools from inside, and what they cost in memory."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from executions import one_after_another, reference, settled, tool_calls
from figures import Figure, left_out, rounds, spread, timed

from gateway._grpc import grpc
from gateway.endpoint import GRPC_ENVIRONMENT
from gateway.v1 import gateway_pb2 as pb
from sandbox import AsyncExec

MB = 1 << 20
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
        Figure("wasm: cold, from AsyncExec() to the first result", "ms", cold * 1e3),
        spread("wasm: execute 1 + 1, 20 ms apart", "ms", paced, target=2.0),
        spread("wasm: execute 1 + 1, back to back", "ms", back_to_back),
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
    return [spread("reference: gRPC round trip on a Unix socket", "µs", json.loads(output))]


async def wasm_memory() -> list[Figure]:
    few, many = 4, 68
    private = [await private_bytes(size) for size in (few, many)]
    name = "wasm: private memory of a live guest"
    if 0 in private:
        return left_out(name, "the kernel does not tell")
    each = (private[1] - private[0]) / (many - few)
    return [Figure(name, "MB", each / MB, target=2.0)]


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
    return [spread("unsafe: execute 1 + 1, warm", "ms", warm, target=10.0)]


def import_time(count: int) -> list[Figure]:
    code = "import time; t = time.perf_counter(); from sandbox import Exec; print(time.perf_counter() - t)"
    # With bytecode, as an installed package has it; the first one may have to write it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    _, *seconds = (float(subprocess.check_output((sys.executable, "-c", code), env=env)) for _ in range(count + 1))
    return [spread("from sandbox import Exec", "ms", seconds, target=250.0)]


async def measure(share: float) -> list[Figure]:
    return [
        *reference("reference: python -c 'print(1 + 1)'", PYTHON, rounds(20, share)),
        *import_time(rounds(10, share)),
        *await wasm_latency(rounds(200, share)),
        *await wasm_rates(rounds(1280, share)),
        *await grpc_echo(rounds(2000, share)),
        await tool_calls("wasm: tool call from inside", rounds(2000, share), target=350.0),
        *await wasm_memory(),
        *await unsafe_latency(rounds(20, share)),
    ]
