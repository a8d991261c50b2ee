"""The server: one socket that only we can open, and nothing of it after close."""

import os
from pathlib import Path

import anyio
import pytest

from gateway.client import GatewayClient
from gateway.endpoint import Endpoint, TlsPort
from gateway.errors import Closed, ProtocolError, SandboxError, Unauthenticated
from gateway.server import GatewayServer
from runtimes.folder import make_folder, remove_folder
from tests.gateway.raw import SECONDS, Tools, mode, raw_guest

pytestmark = pytest.mark.anyio


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_socket_and_folder_are_ours_alone() -> None:
    folder = make_folder()
    try:
        async with GatewayServer(folder) as server:
            assert server.address == f"unix:{folder}/gateway.sock"
            assert mode(folder / "gateway.sock") == 0o600
            assert mode(folder) == 0o700
        assert entries(folder) == []
    finally:
        remove_folder(folder)


async def test_every_guest_gets_a_token_of_its_own(tmp_path: Path) -> None:
    async with GatewayServer(tmp_path) as server:
        attachments = [server.expect() for _ in range(10)]
        assert len({attachment.endpoint.token for attachment in attachments}) == 10
        assert server.attachment(attachments[0].endpoint) is attachments[0]
        attachments[0].hang_up()
        assert server.attachment(attachments[0].endpoint) is None
        assert server.attachment(attachments[1].endpoint) is attachments[1]


async def test_close_hangs_up_on_everybody(tmp_path: Path) -> None:
    server = GatewayServer(tmp_path)
    await server.start()
    tools = Tools()
    async with raw_guest(server) as guest, raw_guest(server) as silent:
        await guest.attach(tools.gateway())
        await guest.call(1, "run_tool", b'{"tool_id": "bad:hang"}')
        await tools.started.wait()
        with anyio.fail_after(SECONDS):
            await server.aclose()
            await server.aclose()
            assert await guest.attachment.wait_ended() is None
            with pytest.raises(ProtocolError, match="before it said hello"):
                await silent.attachment.wait_attached()
        assert tools.working == 0
    assert entries(tmp_path) == []


async def test_a_server_that_is_not_open_expects_nobody(tmp_path: Path) -> None:
    server = GatewayServer(tmp_path)
    with pytest.raises(Closed):
        server.expect()
    async with server:
        endpoint = server.expect().endpoint
    with pytest.raises(Closed):
        server.expect()
    async with GatewayClient(endpoint, timeout_seconds=SECONDS) as client:
        with pytest.raises(SandboxError, match="the gateway does not answer"):
            await client.list_namespaces()


async def test_a_client_does_not_wait_for_ever(tmp_path: Path) -> None:
    tools = Tools()
    async with GatewayServer(tmp_path) as server, raw_guest(server) as guest:
        await guest.attach(tools.gateway())
        async with GatewayClient(guest.attachment.endpoint, timeout_seconds=0.2) as client:
            with anyio.fail_after(SECONDS), pytest.raises(SandboxError):
                await client.run_tool("bad:hang", {})


async def test_a_socket_for_one_guest_takes_its_token_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "guest"
    folder.mkdir()
    async with GatewayServer(tmp_path) as server:
        mine, other = server.expect(), server.expect()
        listener = await server.listen(mine.endpoint, folder / "own.sock", None)
        assert listener.address == f"unix:{folder}/own.sock"
        assert mode(folder / "own.sock") == 0o666
        for token in (other.endpoint.token, "guess", ""):
            async with GatewayClient(Endpoint(listener.address, token), timeout_seconds=SECONDS) as client:
                with pytest.raises(Unauthenticated):
                    await client.list_namespaces()
        async with raw_guest(server, mine, listener.address) as guest:
            await guest.attach(Tools().gateway())
        await listener.aclose()
        await listener.aclose()
        assert entries(folder) == []
        async with GatewayClient(Endpoint(listener.address, mine.endpoint.token), timeout_seconds=SECONDS) as client:
            with pytest.raises(SandboxError, match="the gateway does not answer"):
                await client.list_namespaces()


@pytest.mark.skipif(os.geteuid() != 0, reason="files are given away by root")
async def test_a_socket_belongs_to_the_guests_user_alone(tmp_path: Path) -> None:
    async with GatewayServer(tmp_path) as server:
        await server.listen(server.expect().endpoint, tmp_path / "own.sock", 12_345)
        assert mode(tmp_path / "own.sock") == 0o600
        assert (tmp_path / "own.sock").stat().st_uid == 12_345
    assert entries(tmp_path) == []


async def test_a_server_that_is_not_open_listens_for_nobody(tmp_path: Path) -> None:
    server = GatewayServer(tmp_path)
    async with server:
        endpoint = server.expect().endpoint
    with pytest.raises(Closed):
        await server.listen(endpoint, tmp_path / "own.sock", None)
    with pytest.raises(Closed):
        await server.listen_tls(endpoint, TlsPort("127.0.0.1", b"", b"", b""))


async def test_keys_that_are_none_are_no_port(tmp_path: Path) -> None:
    async with GatewayServer(tmp_path) as server:
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            await server.listen_tls(server.expect().endpoint, TlsPort("127.0.0.1", b"x", b"y", b"z"))
