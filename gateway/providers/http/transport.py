"""The lower half of an HTTP client: connects only to checked addresses, and adds credentials below all that logs,
redirects or reports. Imported only when an API is made, because httpx2 is an extra.
"""

import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anyio
import anyio.to_thread
import httpcore2
import httpx2

from gateway.errors import EgressDenied
from gateway.policies.egress import DEFAULT_PORTS, Egress, normal_host
from gateway.providers.http.auth import NO_CREDENTIALS, Credentials

KEEPALIVE_SECONDS = 30.0
"""How long an idle connection is kept."""

SECRETS = "toolexec_secrets"
"""The extension of a response that has the credentials sent for it, so that an echo can be masked."""

_ALWAYS = {"User-Agent": "toolexec", "Accept": "application/json, text/*;q=0.9, */*;q=0.8"}
_KEPT_ELSEWHERE = frozenset(
    {b"accept", b"accept-encoding", b"content-length", b"content-type", b"host", b"transfer-encoding", b"user-agent"}
)
"""Headers that follow a redirect to another origin; others may be meant for the API alone."""


def make_client(
    home: tuple[str, str, int],
    egress: Egress,
    credentials: Callable[[], Credentials],
    *,
    ssl_context: ssl.SSLContext | None,
    max_connections: int,
) -> httpx2.AsyncClient:
    """A client for the API at `home` (scheme, host, port) that takes nothing from the environment and keeps no cookies:
    those of one caller must not reach the next.
    """
    transport = _Transport(home, egress, credentials, ssl_context, max_connections)
    nothing_kept = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx2.AsyncClient(transport=transport, cookies=nothing_kept, trust_env=False, headers=_ALWAYS)


async def try_connect(home: tuple[str, str, int], egress: Egress, timeout_seconds: float) -> None:
    """Connect and hang up. Raises as a request would."""
    scheme, host, port = home
    stream = await CheckedBackend(egress, scheme).connect_tcp(host, port, timeout_seconds)
    await stream.aclose()


class _Transport(httpx2.AsyncBaseTransport):
    """One pool for each scheme, because the rules of egress tell schemes apart and a pool's backend is not told."""

    def __init__(
        self,
        home: tuple[str, str, int],
        egress: Egress,
        credentials: Callable[[], Credentials],
        ssl_context: ssl.SSLContext | None,
        max_connections: int,
    ) -> None:
        self._home = home
        self._egress = egress
        self._credentials = credentials
        self._ssl_context = ssl_context
        self._max_connections = max_connections
        self._pools: dict[str, httpcore2.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        port = url.port or DEFAULT_PORTS.get(url.scheme, 0)
        is_home = (url.scheme, normal_host(url.raw_host.decode()), port) == self._home
        added = self._credentials() if is_home else NO_CREDENTIALS
        sent = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=_with_query(url.raw_path, added.query)
            ),
            headers=_with_headers(request.headers.raw, added) if is_home else _elsewhere(request.headers.raw),
            content=request.stream,
            extensions=request.extensions,
        )
        pool = await self._pool(url.scheme)
        response = await pool.handle_async_request(sent)
        return httpx2.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions={**response.extensions, SECRETS: added.secrets},
        )

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    async def _pool(self, scheme: str) -> httpcore2.AsyncConnectionPool:
        if scheme not in ("http", "https"):
            raise EgressDenied(f"{scheme}:", "only http and https are spoken here")
        if scheme == "https" and self._ssl_context is None:  # reading all certificates takes 50 ms and more
            self._ssl_context = await anyio.to_thread.run_sync(httpx2.create_ssl_context)
        if scheme not in self._pools:
            self._pools[scheme] = httpcore2.AsyncConnectionPool(
                ssl_context=self._ssl_context,
                max_connections=self._max_connections,
                max_keepalive_connections=self._max_connections,
                keepalive_expiry=KEEPALIVE_SECONDS,
                network_backend=CheckedBackend(self._egress, scheme),
            )
        return self._pools[scheme]


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._response.aiter_stream()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


class CheckedBackend(httpcore2.AnyIOBackend):
    """Connects to an address that egress permits; TLS still verifies the name, which the pool passes to `start_tls`."""

    def __init__(self, egress: Egress, scheme: str) -> None:
        self._egress = egress
        self._scheme = scheme

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        ends = None if timeout is None else time.monotonic() + timeout
        try:
            with anyio.fail_after(timeout):
                addresses = await self._egress.addresses(self._scheme, host, port)
        except TimeoutError as exc:
            raise httpcore2.ConnectTimeout("its name took too long to resolve") from exc
        for number, address in enumerate(addresses, 1):
            left = None if ends is None else max(0.0, ends - time.monotonic())
            share = None if left is None else left / (len(addresses) - number + 1)  # one dead address must not take all
            try:
                return await super().connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise AssertionError("egress gives at least one address, or raises")


def _with_query(target: bytes, query: bytes) -> bytes:
    if not query:
        return target
    return target + (b"&" if b"?" in target else b"?") + query


def _with_headers(headers: list[tuple[bytes, bytes]], added: Credentials) -> list[tuple[bytes, bytes]]:
    """The host's own headers win over those that came from arguments; its cookie joins theirs."""
    taken = {name.lower() for name, _ in added.headers}
    kept = [(name, value) for name, value in headers if name.lower() not in taken]
    if added.cookie:
        given = [value for name, value in kept if name.lower() == b"cookie"]
        kept = [header for header in kept if header[0].lower() != b"cookie"]
        kept.append((b"Cookie", b"; ".join([*given, added.cookie])))
    return [*kept, *added.headers]


def _elsewhere(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [header for header in headers if header[0].lower() in _KEPT_ELSEWHERE]
