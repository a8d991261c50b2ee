"""The gRPC server that guests attach to: one Unix socket in a folder only we can enter, a token for each guest.

A guest that must not see that folder gets a socket of its own, on which no token but its own is good.
"""

import os
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway._grpc import grpc
from gateway.attachment import Attachment
from gateway.endpoint import Endpoint, Listener, TlsPort, new_token, token_key
from gateway.errors import Closed
from gateway.frames import MAX_GUEST_FRAME_BYTES, MAX_HOST_FRAME_BYTES
from gateway.service import GatewayService, Lookup
from gateway.v1 import gateway_pb2_grpc as pb_grpc

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_GUEST_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_HOST_FRAME_BYTES),
    ("grpc.so_reuseport", 0),
)


class GatewayServer:
    """Listens on `folder/gateway.sock` with mode 0600. `folder` must belong to us alone."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "gateway.sock"
        self._attachments: dict[bytes, Attachment] = {}
        self._listeners: set[Listener] = set()
        self._server = _server(self._lookup)
        self._open = False

    @property
    def address(self) -> str:
        return f"unix:{self._socket}"

    async def start(self) -> None:
        self._server.add_insecure_port(self.address)
        self._socket.chmod(0o600)
        await self._server.start()
        self._open = True

    def expect(self) -> Attachment:
        """Make an endpoint for one new guest; its token is valid until the attachment ends."""
        if not self._open:
            raise Closed("gateway server")
        endpoint = Endpoint(self.address, new_token())
        key = token_key(endpoint.token)

        def forget() -> None:
            self._attachments.pop(key, None)

        attachment = Attachment(endpoint, forget)
        self._attachments[key] = attachment
        return attachment

    def attachment(self, endpoint: Endpoint) -> Attachment | None:
        """What `expect` made for this endpoint, None when it ended."""
        return self._lookup(endpoint.token)

    async def listen(self, endpoint: Endpoint, socket: Path, owner: int | None) -> Listener:
        """Listen for this endpoint's guest on `socket` too, in a folder that nobody else on this host can enter.

        `owner` is the guest's user, who alone may connect; None where the host cannot give files away: then whoever
        sees the socket may. Raises Closed.
        """
        if not self._open:
            raise Closed("gateway server")
        server = self._server_for(endpoint)
        server.add_insecure_port(f"unix:{socket}")
        _admit(owner, socket)
        return await self._started(server, f"unix:{socket}")

    async def listen_tls(self, endpoint: Endpoint, at: TlsPort) -> Listener:
        """Listen for this endpoint's guest, on another machine, on a free port. Raises Closed, OSError."""
        if not self._open:
            raise Closed("gateway server")
        server = self._server_for(endpoint)
        credentials = grpc.ssl_server_credentials([(at.key, at.certificate)])
        try:
            port = server.add_secure_port(f"{at.host}:0", credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {at.host}: {error}") from error
        return await self._started(server, f"{at.host}:{port}")

    async def aclose(self) -> None:
        """Hang up on every guest and stop listening. Idempotent."""
        self._open = False
        for attachment in list(self._attachments.values()):
            attachment.hang_up()
        for listener in list(self._listeners):
            await listener.aclose()
        await self._server.stop(grace=0)
        self._socket.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def _server_for(self, endpoint: Endpoint) -> "grpc.aio.Server":
        key = token_key(endpoint.token)
        return _server(lambda token: self._lookup(token) if token_key(token) == key else None)

    async def _started(self, server: "grpc.aio.Server", address: str) -> Listener:
        await server.start()
        listener = Listener(address, partial(server.stop, grace=0), self._listeners.discard)
        self._listeners.add(listener)
        return listener

    def _lookup(self, token: str) -> Attachment | None:
        return self._attachments.get(token_key(token))


def _admit(owner: int | None, socket: Path) -> None:
    if owner is not None:
        os.chown(socket, owner, -1)
    socket.chmod(0o666 if owner is None else 0o600)


def _server(lookup: Lookup) -> "grpc.aio.Server":
    server = grpc.aio.server(options=OPTIONS)
    pb_grpc.add_GatewayServiceServicer_to_server(GatewayService(lookup), server)
    return server
