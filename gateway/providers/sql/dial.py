"""Connections to database servers, at addresses that egress permits: a name is resolved once, here, and not again."""

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from gateway.errors import ToolUnavailable
from gateway.providers.sql.target import CONNECT_SECONDS, Target

_NO_CONNECTION = 2003  # what MySQL's drivers say then

Made = TypeVar("Made")


async def dialled(target: Target, connect: Callable[..., Awaitable[Made]], **options: Any) -> Made:
    """What `connect` makes of the options, with an address for the host; of several, the first that answers.

    Raises EgressDenied, ToolUnavailable, and what `connect` raises of the last address.
    """
    if target.socket_path:
        return await connect(**options)
    with anyio.move_on_after(CONNECT_SECONDS) as waiting:
        addresses = await target.egress.addresses(target.scheme, target.host, target.port)
    if waiting.cancelled_caught:
        raise ToolUnavailable(str(target), "its name took too long to resolve")
    # One dead address must not take all the time.
    shared = {name: options[name] / len(addresses) for name in ("timeout", "connect_timeout") if name in options}
    for number, address in enumerate(addresses, 1):
        try:
            return await connect(**(options | shared | {"host": address, "port": target.port}))
        except Exception as exc:
            if number == len(addresses) or not _is_unanswered(exc):
                raise
    raise AssertionError("egress gives at least one address, or raises")


def _is_unanswered(exc: Exception) -> bool:
    return isinstance(exc, OSError | TimeoutError) or exc.args[:1] == (_NO_CONNECTION,)


class NamedContext(ssl.SSLContext):
    """Verifies the name that was dialled: drivers would hold a certificate against the address."""

    name: str

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the signature of the standard library
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        del server_hostname
        return super().wrap_bio(incoming, outgoing, server_side, self.name, session)


def tls_context(target: Target) -> ssl.SSLContext | None:
    """None for a connection without TLS."""
    if target.tls == "off":
        return None
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.name = target.host
    if target.ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(target.ca_file)
    if target.tls == "encrypt":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
