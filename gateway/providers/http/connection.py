"""The live half of an HTTP API: its client, its credentials, its calls. Imported only when an API is made."""

import asyncio
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import anyio
import httpx2

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import ToolUnavailable
from gateway.policies.destinations import Destination, check_hop
from gateway.policies.egress import DEFAULT_PORTS, normal_host
from gateway.providers.http.auth import credentials
from gateway.providers.http.request import Request, RequestTemplate
from gateway.providers.http.response import Wanted, connecting, result_of, translated
from gateway.providers.http.transport import make_client, try_connect
from gateway.tracing import annotate, request_span, trace_headers

if TYPE_CHECKING:
    from gateway.providers.http.api import HttpApi

CLOSE_SECONDS = 1.0
"""How long the end of a connection may take when its call is over."""


class Connection:
    """The client of one API; it is made by the first call, and again after `aclose`."""

    def __init__(self, api: "HttpApi", home: tuple[str, str, int]) -> None:
        self._api = api
        self._home = home
        self._base_url = api.base_url.rstrip("/")
        self._at = f"{home[1]}:{home[2]}"
        self.attributes: dict[str, JsonValue] = {"server.address": home[1], "server.port": home[2]}
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def provider(
        self, template: RequestTemplate, headers: Iterable[str] | None, timeout_seconds: float, *, sends_key: bool
    ) -> "HttpProvider":
        """What answers the calls of one tool; `sends_key` says whether it tells the server their idempotency keys."""
        wanted = None if headers is None else tuple(headers)
        return HttpProvider(self, template, wanted, timeout_seconds, sends_key=sends_key)

    async def call(
        self,
        request: Request,
        headers: tuple[str, ...] | None,
        timeout_seconds: float,
        what: str,
        *,
        tool_id: str | None = None,
    ) -> JsonValue:
        """Send the request; the result of its response, with these headers or (None) the body alone.

        Redirects keep to the rules that hold for calls of the tool.
        """
        wanted = Wanted(f"{what} at {self._at}", self._api.max_response_bytes, headers)
        with translated(wanted.what):
            response = await self._answer(request, timeout_seconds, wanted.what, tool_id)
            annotate("http.response.status_code", response.status_code)
            try:
                return await result_of(response, wanted)
            finally:
                await _closed(response)

    def destination(self, method: str) -> Destination:
        """Where a request of this method goes."""
        scheme, host, port = self._home
        return Destination(scheme=scheme, host=host, port=port, operations=frozenset({method.lower()}))

    async def health(self) -> None:
        """As `HttpApi.health`."""
        seconds = self._api.connect_timeout_seconds
        with anyio.move_on_after(seconds):
            if self._api.health_path is None:
                with translated(self._at):
                    await try_connect(self._home, self._api.egress, seconds)
            else:
                await self.call(Request("GET", self._api.health_path, (), None), None, seconds, "health")
            return
        raise ToolUnavailable(self._at, f"it did not answer within {seconds:g} s")

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _answer(
        self, request: Request, timeout_seconds: float, what: str, tool_id: str | None
    ) -> httpx2.Response:
        client = self._opened()
        connect_seconds = min(timeout_seconds, self._api.connect_timeout_seconds)
        sent = client.build_request(
            request.method,
            self._base_url + request.target,
            headers=list(request.headers),
            content=request.content,
            timeout=httpx2.Timeout(timeout_seconds, connect=connect_seconds),
        )
        with connecting(what):
            response = await client.send(sent, stream=True, auth=None)
        for _ in range(self._api.max_redirects):
            if response.next_request is None:
                break
            sent = response.next_request
            await _closed(response)
            if tool_id is not None:
                check_hop(tool_id, _destination(sent))
            response = await client.send(sent, stream=True, auth=None)
        return response

    def _opened(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:  # sockets of a loop that is gone cannot be used, or closed
            self._loop = loop
            self._client = make_client(
                self._home,
                self._api.egress,
                functools.partial(credentials, self._api.headers, self._api.auth),
                ssl_context=self._api.ssl_context,
                max_connections=self._api.max_connections,
            )
        return self._client


class HttpProvider:
    """One tool of an API."""

    def __init__(
        self,
        connection: Connection,
        template: RequestTemplate,
        headers: tuple[str, ...] | None,
        timeout_seconds: float,
        *,
        sends_key: bool,
    ) -> None:
        self._connection = connection
        self._template = template
        self._headers = headers
        self._timeout_seconds = timeout_seconds
        self._sends_key = sends_key
        self._what = f"{template.method} {template.path}"

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        request = self._template.fill(arguments)
        if self._sends_key and context.idempotency_key:
            request = request.with_key(context.idempotency_key)
        with request_span(context, "http", self._connection.attributes | {"http.request.method": request.method}):
            request = _traced(request)
            return await self._connection.call(
                request, self._headers, self._timeout_seconds, self._what, tool_id=context.tool_id
            )

    async def destinations(self, arguments: Mapping[str, JsonValue]) -> tuple[Destination, ...]:
        """That of the API; where a redirect leads is checked when it is known."""
        del arguments
        return (self._connection.destination(self._template.method),)

    async def health(self) -> None:
        await self._connection.health()

    async def aclose(self) -> None:
        await self._connection.aclose()


def _destination(request: httpx2.Request) -> Destination:
    """Where a redirect leads. Raises EgressDenied for what is no host."""
    url = request.url
    return Destination(
        scheme=url.scheme,
        host=normal_host(url.raw_host.decode()),
        port=url.port or DEFAULT_PORTS.get(url.scheme, 0),
        operations=frozenset({request.method.lower()}),
    )


def _traced(request: Request) -> Request:
    """With the headers that tie the server's trace to ours, unless the tool sends its own."""
    given = {name.lower() for name, _ in request.headers}
    added = tuple(pair for pair in trace_headers() if pair[0] not in given)
    return dataclasses.replace(request, headers=(*request.headers, *added)) if added else request


async def _closed(response: httpx2.Response) -> None:
    """Give the connection back, or hang up when the body was not read to its end; also while being cancelled."""
    with anyio.move_on_after(CLOSE_SECONDS, shield=True):
        await response.aclose()
