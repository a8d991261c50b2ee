"""The gateway's address and token as given to one guest."""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

GRPC_EXPERIMENTS = "-event_engine_client,-event_engine_listener"
"""gRPC's older pollers: measured, they save each end of a round trip over a Unix socket 50 of 300 µs."""

GRPC_ENVIRONMENT = {"GRPC_VERBOSITY": "ERROR", "GRPC_EXPERIMENTS": GRPC_EXPERIMENTS}
"""For processes of ours that speak to the gateway."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one guest reaches the gateway.

    `address` is a gRPC target such as `unix:/run/…/gateway.sock`. `token` is 256 random bits, valid for one guest and
    one execution; it never appears in a repr, a record or an error.
    """

    address: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsPort:
    """Where guests of another machine reach the gateway: an address of this host, as they see it, without a port.

    `certificate` and `key` are PEM, made out to `host`; `authority` is the certificate that guests check it by.
    """

    host: str
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    authority: bytes = field(repr=False)


class Listener:
    """A socket for one guest. Its token alone is good here; the sandbox that asked for it closes it."""

    def __init__(
        self, address: str, stop: Callable[[], Awaitable[object]], closed: Callable[["Listener"], None]
    ) -> None:
        self._stop = stop
        self._closed = closed
        self.address = address

    async def aclose(self) -> None:
        """Hang up on who is there, stop listening and remove the socket. Idempotent."""
        self._closed(self)
        await self._stop()


def new_token() -> str:
    return secrets.token_urlsafe(32)


def token_key(token: str) -> bytes:
    """What a token is looked up by: comparing digests leaks nothing of the token through timing."""
    return hashlib.sha256(token.encode(errors="replace")).digest()
