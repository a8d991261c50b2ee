"""HTTP servers that never stop, send bombs or nonsense, break off, or are not who they should be."""

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import trustme

from gateway.errors import InvalidInput, InvalidOutput, PayloadTooLarge, ToolFailed, ToolTimeout, ToolUnavailable
from gateway.policies.egress import Egress
from gateway.providers.http import HttpApi
from tests.gateway.http_server import Answer, Seen, always, call, echo, response, serving

pytestmark = pytest.mark.anyio

CAP = 10_000
CA = trustme.CA()


async def ask(answer: Answer, *, timeout_seconds: float = 20.0, **more: Any) -> Any:
    async with serving(answer) as server:
        api = HttpApi(base_url=server.url, max_response_bytes=CAP, **more)
        try:
            return await call(api.tool("t", "GET", "/x", timeout_seconds=timeout_seconds))
        finally:
            await api.aclose()


async def test_the_size_of_an_answer_is_bounded_exactly() -> None:
    assert len(await ask(always(response("x" * CAP, content_type="text/plain")))) == CAP
    with pytest.raises(PayloadTooLarge, match=f"{CAP + 1} bytes"):
        await ask(always(response("x" * (CAP + 1), content_type="text/plain")))


async def test_a_declared_size_is_enough_to_refuse() -> None:
    with pytest.raises(PayloadTooLarge, match="99999999999 bytes"):
        await ask(always(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"))


@pytest.mark.parametrize("status", [b"200 OK", b"500 X", b"404 X"])
@pytest.mark.parametrize("head", [b"Transfer-Encoding: chunked", b"Connection: close"])
async def test_a_server_that_never_stops_sending_is_left(status: bytes, head: bytes) -> None:
    async def endless(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            await writer.drain()

    expected = {b"200 OK": PayloadTooLarge, b"500 X": ToolUnavailable, b"404 X": ToolFailed}[status]
    with pytest.raises(expected):
        await ask(endless)


async def test_an_answer_that_was_not_read_to_its_end_holds_no_connection() -> None:
    async def large_first(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(response("x" * 1_000_000, content_type="text/plain")) if seen.target == "/large" else await echo(
            seen, writer
        )

    async with serving(large_first) as server:
        api = HttpApi(base_url=server.url, max_response_bytes=CAP, max_connections=1)
        for _ in range(3):
            with pytest.raises(PayloadTooLarge):
                await call(api.tool("l", "GET", "/large"))
        assert (await call(api.tool("s", "GET", "/small", timeout_seconds=2)))["target"] == "/small"
        await api.aclose()


async def test_a_server_that_sends_one_byte_at_a_time_runs_out_of_time() -> None:
    async def dripping(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    with pytest.raises(ToolTimeout):
        await ask(dripping, timeout_seconds=0.3)


def bomb(layers: int) -> bytes:
    data = b"\0" * 50_000_000
    for _ in range(layers):
        data = gzip.compress(data)
    return data


@pytest.mark.parametrize("layers", [1, 2])
async def test_a_compressed_bomb_is_not_unpacked(layers: int) -> None:
    packed = response(bomb(layers), content_type="text/plain", Content_Encoding=", ".join(["gzip"] * layers))
    assert len(packed) < 100_000
    with pytest.raises(PayloadTooLarge):
        await ask(always(packed), timeout_seconds=30)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\0\1\2\3\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        response('{"broken', content_type="application/json"),
        response("NaN"),
        response(b'"\xff"'),
        response("[" * 5000 + "]" * 5000),
        response('{"a": 1, "a": 2}'),
        response(b"no gzip", Content_Encoding="gzip"),
        response(zlib.compress(b"[1]")[:-6] + b"\xff\xff\xff\xff", Content_Encoding="deflate"),
    ],
)
async def test_nonsense_is_an_invalid_output(data: bytes) -> None:
    with pytest.raises(InvalidOutput) as caught:
        await ask(always(data))
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf",
    ],
)
async def test_an_answer_that_breaks_off_may_work_later(data: bytes) -> None:
    async def breaks_off(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    with pytest.raises(ToolUnavailable):
        await ask(breaks_off)


async def test_a_connection_that_is_reset_may_work_later() -> None:
    async def resets(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    with pytest.raises(ToolUnavailable):
        await ask(resets)


async def test_a_flood_of_interim_responses_runs_out_of_time() -> None:
    async def interim(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)

    with pytest.raises(ToolTimeout):
        await ask(interim, timeout_seconds=0.3)


async def test_a_storm_of_refusals_leaves_the_api_working() -> None:
    count = 0

    async def stormy(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await echo(seen, writer) if count > 50 else writer.write(response("", "503 Service Unavailable"))

    async with serving(stormy) as server:
        api = HttpApi(base_url=server.url, max_connections=2)
        tool = api.tool("t", "GET", "/")
        refused = await asyncio.gather(*(call(tool) for _ in range(50)), return_exceptions=True)
        assert {type(each) for each in refused} == {ToolUnavailable}
        assert (await call(tool))["method"] == "GET"
        assert server.connections <= 2
        await api.aclose()


async def test_a_url_that_is_too_long_is_the_callers_fault() -> None:
    api = HttpApi(base_url="http://127.0.0.1:1")
    with pytest.raises(InvalidInput, match="do not make a request"):
        await call(api.tool("t", "GET", "/", query={"q": "{q}"}), {"q": "x" * 100_000})


@pytest.fixture
async def secured() -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """The port of a server for api.example.com, and a context that trusts its authority."""
    serving_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("api.example.com").configure_cert(serving_tls)
    trusting = ssl.create_default_context()
    CA.configure_trust(trusting)
    async with serving(echo, serving_tls) as server:
        yield server.port, trusting


async def here(_host: str, _port: int) -> Iterable[str]:
    return ["127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "trusted", "reason"),
    [
        ("api.example.com", True, ""),
        ("other.example.com", True, "Hostname mismatch"),
        ("api.example.com", False, "unable to get local issuer"),
    ],
)
async def test_tls_verifies_the_name_though_the_address_was_chosen_by_us(
    secured: tuple[int, ssl.SSLContext], host: str, trusted: bool, reason: str
) -> None:
    port, trusting = secured
    egress = Egress(("127.0.0.1",), here)
    api = HttpApi(base_url=f"https://{host}:{port}", egress=egress, ssl_context=trusting if trusted else None)
    tool = api.tool("t", "GET", "/")
    if reason:
        with pytest.raises(ToolFailed, match=reason) as caught:
            await call(tool)
        assert not caught.value.retryable
    else:
        assert (await call(tool))["headers"]["Host"] == f"api.example.com:{port}"
    await api.aclose()


async def test_a_server_without_tls_is_no_https_server() -> None:
    async with serving(echo) as server:
        api = HttpApi(base_url=f"https://127.0.0.1:{server.port}", connect_timeout_seconds=1)
        with pytest.raises((ToolFailed, ToolUnavailable)):
            await call(api.tool("t", "GET", "/"))
        await api.aclose()
