"""Connections of the DynamoDB client, at addresses that egress permits. Imported only when a client is made, because
aiobotocore is an extra.
"""

import socket
from typing import Any

import anyio
from aiobotocore.httpsession import AIOHTTPSession
from aiohttp.abc import AbstractResolver, ResolveResult
from botocore.exceptions import HTTPClientError

from gateway.errors import EgressDenied, ToolUnavailable
from gateway.policies.egress import Egress, normal_host, origin


class Dial(AbstractResolver):
    """Resolves names for one client, and makes the sockets for what was checked, and for nothing else.

    The client asks `resolve` once for each new connection, unless the host is a number; `socket` sees every address.
    """

    def __init__(self, egress: Egress, timeout_seconds: float) -> None:
        self._egress = egress
        self._scheme = "https"
        self._timeout_seconds = timeout_seconds
        self._checked: set[tuple[str, int]] = set()
        self._endpoints: set[tuple[str, str, int]] = set()

    def before_send(self, request: Any, **_: Any) -> None:
        """Allow the endpoint that the client itself addresses: it is the operator's choice, or that of AWS."""
        endpoint = origin(request.url)
        if endpoint not in self._endpoints:
            self._endpoints.add(endpoint)
            self._scheme = endpoint[0]
            self._egress = self._egress.with_url(request.url)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name that may be connected to, best first. Raises EgressDenied, OSError."""
        del family
        self._check_endpoint(host, port)
        addresses = await self._addresses(host, port)
        self._checked.update((address, port) for address in addresses)
        return [_found(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Nothing is held."""

    def socket(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for one address, as `getaddrinfo` writes them. Raises EgressDenied."""
        family, kind, protocol, _, (host, port, *_) = address
        if (host, port) not in self._checked:  # a number, of the endpoint or of where it redirects to
            self._check_endpoint(host, port)
            self._egress.check(self._scheme, host, port)
        return socket.socket(family, kind, protocol)

    def _check_endpoint(self, host: str, port: int) -> None:
        """The client follows redirects, but DynamoDB has none."""
        if (normal_host(host), port) not in {endpoint[1:] for endpoint in self._endpoints}:
            raise EgressDenied(f"{host}:{port}", "DynamoDB is asked at its own endpoint alone")

    async def _addresses(self, host: str, port: int) -> tuple[str, ...]:
        """Names that cannot be resolved now are OSErrors, which the client tries again."""
        try:
            with anyio.fail_after(self._timeout_seconds):
                return await self._egress.addresses(self._scheme, host, port)
        except ToolUnavailable as exc:
            raise OSError(exc.message) from exc
        except TimeoutError as exc:
            raise OSError("its name took too long to resolve") from exc


class Session(AIOHTTPSession):  # type: ignore[misc]  # a library without types
    """Says at once what was refused: as a failure of the connection the client would try it again."""

    async def send(self, request: Any) -> Any:
        try:
            return await super().send(request)
        except HTTPClientError as exc:
            if isinstance(exc.kwargs.get("error"), EgressDenied):
                raise exc.kwargs["error"] from None
            raise


def _found(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
