"""What a hostile guest can say on its stream, and that the host refuses it, records it, and stays alive."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest

from gateway import service
from gateway.errors import ProtocolError
from gateway.frames import MAX_GUEST_FRAME_BYTES, Execute, Finished, FinishedKind, GuestError
from gateway.journal.base import CallFinished, CallStatus
from gateway.server import GatewayServer
from gateway.v1 import gateway_pb2 as pb
from runtimes.supervisor import Collected
from tests.gateway.raw import SECONDS, Heard, RawGuest, Tools, ended_calls, eventually, raw_guest

pytestmark = pytest.mark.anyio

INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
OK = grpc.StatusCode.OK
HANG = json.dumps({"tool_id": "bad:hang"}).encode()


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
async def server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[GatewayServer]:
    """A server that still serves honest guests after the test, and never met an error it did not expect."""
    async with GatewayServer(tmp_path) as server:
        yield server
        async with raw_guest(server) as guest:
            await guest.attach(Tools().gateway())
            await guest.finish(b'"alive"')
            with anyio.fail_after(SECONDS):
                assert await guest.attachment.wait_ended() == Finished(FinishedKind.COMPLETED, "alive")
    unexpected = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    # gRPC's own word for a guest that was gone before it could be told that its stream is over.
    assert [message for message in unexpected if not message.startswith("ExecuteBatchError")] == []


@pytest.fixture
async def guest(server: GatewayServer) -> AsyncIterator[RawGuest]:
    async with raw_guest(server) as guest:
        yield guest


async def fault_of(guest: RawGuest) -> str:
    """The fault for which the host ended the stream, said to the guest in the same words."""
    status, details = await guest.status()
    assert status is INVALID
    with anyio.fail_after(SECONDS):
        assert await guest.attachment.wait_ended() is None
    assert isinstance(guest.attachment.fault, ProtocolError)
    assert str(guest.attachment.fault) == details
    return details


async def test_an_honest_guest_is_heard(guest: RawGuest, tools: Tools) -> None:
    heard = Heard()
    await guest.hello(evidence=b'{"Uid": "1000"}')
    hello = await guest.attachment.wait_attached()
    assert (hello.agent_version, hello.language, hello.evidence) == ("1", "python", {"Uid": "1000"})
    request = Execute("id", "1 + 1", {"A": "ü"}, {"in/a.txt": b"\0"}, value_bytes=77)
    await guest.attachment.execute(request, heard.binding(tools.gateway()))
    execute = (await guest.hear()).execute
    assert (execute.execution_id, execute.code, execute.value_bytes) == ("id", "1 + 1", 77)
    assert dict(execute.env) == {"A": "ü"}
    assert [(file.path, file.data) for file in execute.files] == [("in/a.txt", b"\0")]
    await guest.say(output=pb.Output(stream=pb.Output.STREAM_STDOUT, data=b"out"))
    await guest.say(output=pb.Output(stream=pb.Output.STREAM_STDERR, data=b"err"))
    await guest.call(7, "run_tool", b'{"tool_id": "math:add", "arguments": {"a": 1, "b": 2}}')
    reply = (await guest.hear()).tool_reply
    assert (reply.id, reply.value) == (7, b"3")
    await guest.say(artifact=pb.Artifact(path="a/b.bin", data=b"\xff"))
    await guest.finish(b'{"n": [1, 2.5, "\xc3\xbc", null, true]}')
    assert await guest.attachment.wait_ended() == Finished(FinishedKind.COMPLETED, {"n": [1, 2.5, "ü", None, True]})
    assert heard.output == [("stdout", b"out"), ("stderr", b"err")]
    assert heard.artifacts == [("a/b.bin", b"\xff")]
    assert (await guest.status())[0] is OK


async def test_a_failed_call_is_answered_with_its_error(guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    await guest.call(1, "run_tool", b'{"tool_id": "bad:fail"}')
    reply = (await guest.hear()).tool_reply
    assert reply.WhichOneof("outcome") == "error"
    error = json.loads(reply.error)
    assert (error["code"], error["details"]) == ("tool_failed", {"type": "LookupError"})


async def test_who_never_says_hello_is_ended(guest: RawGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HELLO_SECONDS", 0.2)
    status, details = await guest.status()
    assert (status, details) == (INVALID, "the first frame must be hello")
    assert not guest.attachment.ended  # a silent stranger takes nobody's place


@pytest.mark.parametrize(
    "frame",
    [
        pb.GuestFrame(),
        pb.GuestFrame(output=pb.Output(stream=pb.Output.STREAM_STDOUT, data=b"x")),
        pb.GuestFrame(tool_call=pb.ToolCall(id=1, operation="list_namespaces", arguments=b"{}")),
        pb.GuestFrame(finished=pb.Finished(kind=pb.Finished.KIND_COMPLETED, value=b"1")),
    ],
)
async def test_the_first_frame_must_be_hello(guest: RawGuest, frame: pb.GuestFrame) -> None:
    await guest.stream.write(frame)
    assert await guest.status() == (INVALID, "the first frame must be hello")
    assert guest.attachment.hello is None


async def test_who_hangs_up_before_hello_is_let_go(guest: RawGuest) -> None:
    await guest.stream.done_writing()
    assert (await guest.status())[0] is INVALID


@pytest.mark.parametrize("token", ["", "A" * 43, "tóken\0\n", "x" * 100_000])
async def test_a_forged_token_opens_nothing(guest: RawGuest, token: str) -> None:
    await guest.hello(token)
    status, details = await guest.status()
    assert status is UNAUTHENTICATED
    assert token not in details or not token
    assert guest.attachment.hello is None


async def test_a_token_is_good_for_one_guest(server: GatewayServer, guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    async with raw_guest(server, guest.attachment) as thief:
        await thief.hello()
        assert (await thief.status())[0] is UNAUTHENTICATED
    await guest.finish(b"1")
    assert await guest.attachment.wait_ended() == Finished(FinishedKind.COMPLETED, 1)


async def test_a_token_is_dead_when_its_execution_ended(server: GatewayServer, guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    await guest.finish()
    assert (await guest.status())[0] is OK
    async with raw_guest(server, guest.attachment) as late:
        await late.hello()
        assert (await late.status())[0] is UNAUTHENTICATED


async def test_a_token_is_dead_when_the_host_gave_up(server: GatewayServer, guest: RawGuest) -> None:
    guest.attachment.hang_up()
    guest.attachment.hang_up()
    await guest.hello()
    assert (await guest.status())[0] is UNAUTHENTICATED


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [(b"[]", "must be a JSON object"), (b"{", "is not JSON"), (b'{"a": NaN}', "is not JSON"), (b"\xff", "is not JSON"),
     (b'{"a": "%s"}' % (b"x" * (17 << 10)), "is over 16384"), (b"[" * 10_000, "is not JSON")],
)  # fmt: skip
async def test_evidence_is_a_small_object(guest: RawGuest, evidence: bytes, reason: str) -> None:
    await guest.hello(evidence=evidence)
    assert reason in await fault_of(guest)
    with pytest.raises(ProtocolError, match=r"hello\.evidence"):
        await guest.attachment.wait_attached()


async def test_long_names_in_hello_are_cut(guest: RawGuest) -> None:
    token = guest.attachment.endpoint.token
    await guest.say(hello=pb.Hello(token=token, agent_version="v" * 1000, language="l" * 1000))
    hello = await guest.attachment.wait_attached()
    assert (hello.agent_version, hello.language) == ("v" * 100, "l" * 100)


@pytest.mark.parametrize(
    "frame",
    [
        pb.GuestFrame(tool_call=pb.ToolCall(id=1, operation="list_namespaces", arguments=b"{}")),
        pb.GuestFrame(output=pb.Output(stream=pb.Output.STREAM_STDOUT, data=b"x")),
        pb.GuestFrame(finished=pb.Finished(kind=pb.Finished.KIND_COMPLETED, value=b"1")),
        pb.GuestFrame(hello=pb.Hello(token="again")),
    ],
)
async def test_a_guest_says_nothing_before_its_snippet(guest: RawGuest, frame: pb.GuestFrame) -> None:
    await guest.hello()
    await guest.attachment.wait_attached()
    await guest.stream.write(frame)
    assert await fault_of(guest) == "a guest has nothing to say between hello and execute"
    assert guest.attachment.finished is None
    with pytest.raises(ProtocolError, match="left before the snippet was sent"):
        await guest.attachment.execute(Execute("e", "pass"), Heard().binding(Tools().gateway()))


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (pb.GuestFrame(), "without a kind"),
        (pb.GuestFrame.FromString(b"\x9a\x06\x03abc"), "without a kind"),  # a field of the future
        (pb.GuestFrame(hello=pb.Hello(token="again")), "hello"),
        (pb.GuestFrame(output=pb.Output(data=b"x")), "output"),
        (pb.GuestFrame(output=pb.Output(stream=77, data=b"x")), "output"),  # type: ignore[arg-type]  # no such stream
    ],
)
async def test_unknown_frames_end_the_stream(guest: RawGuest, tools: Tools, frame: pb.GuestFrame, kind: str) -> None:
    await guest.attach(tools.gateway())
    await guest.stream.write(frame)
    assert await fault_of(guest) == f"unexpected frame {kind} from the guest"


async def test_bytes_that_are_no_frame_end_the_stream(guest: RawGuest) -> None:
    channel: Any = grpc.aio.insecure_channel(guest.attachment.endpoint.address)
    call = channel.stream_stream("/toolexec.gateway.v1.GatewayService/Attach")()
    await call.write(b"\xff\xff\xff\xff")
    with anyio.fail_after(SECONDS):
        assert await call.code() is not OK
    await channel.close()
    assert guest.attachment.hello is None


async def test_what_follows_the_last_word_is_not_heard(guest: RawGuest, tools: Tools) -> None:
    heard = Heard()
    gateway = tools.gateway()
    await guest.attach(gateway, heard)
    await guest.finish(b"1")
    try:
        await guest.say(output=pb.Output(stream=pb.Output.STREAM_STDOUT, data=b"late"))
        await guest.call(1, "run_tool", b'{"tool_id": "math:add", "arguments": {"a": 1, "b": 2}}')
        await guest.finish(b"2")
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
        pass  # it was hung up on before it could say so
    assert await guest.attachment.wait_ended() == Finished(FinishedKind.COMPLETED, 1)
    assert heard.output == []
    assert gateway.calls == ()


async def test_an_oversized_frame_ends_its_guest_alone(server: GatewayServer, guest: RawGuest, tools: Tools) -> None:
    heard = Heard()
    await guest.attach(tools.gateway(), heard)
    async with raw_guest(server) as neighbour:
        await neighbour.attach(tools.gateway())
        await guest.say(output=pb.Output(stream=pb.Output.STREAM_STDOUT, data=bytes(7 << 20)))
        with anyio.fail_after(SECONDS):
            assert await guest.attachment.wait_ended() is None
        assert heard.output == []
        await neighbour.finish(b"1")
        assert await neighbour.attachment.wait_ended() == Finished(FinishedKind.COMPLETED, 1)


async def test_the_largest_frame_is_heard(guest: RawGuest, tools: Tools) -> None:
    heard = Heard()
    await guest.attach(tools.gateway(), heard)
    data = bytes(MAX_GUEST_FRAME_BYTES - 32)
    await guest.say(output=pb.Output(stream=pb.Output.STREAM_STDOUT, data=data))
    await guest.finish()
    assert await guest.attachment.wait_ended() == Finished(FinishedKind.COMPLETED, None)
    assert heard.output == [("stdout", data)]


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"nul", b"NaN", b"[Infinity]", b'{"a": -Infinity}', b"1e999", b"\xff", b"1 2", b"[" * 100_000,
     b"[" * 5_000 + b"]" * 5_000, b'{"a": 1, "a": 2}', b"9" * 5_000],
)  # fmt: skip
async def test_a_value_that_is_no_json_is_refused(guest: RawGuest, tools: Tools, value: bytes) -> None:
    await guest.attach(tools.gateway())
    await guest.finish(value)
    assert "finished.value" in await fault_of(guest)
    assert guest.attachment.finished is None


async def test_the_last_word_needs_a_kind(guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    await guest.say(finished=pb.Finished(value=b"1"))
    assert await fault_of(guest) == "finished without a kind"


async def test_an_error_is_cut_to_size(guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    error = pb.GuestError(type="T" * 1000, message="m" * 100_000, line=4, column=2, traceback="t" * 100_000)
    await guest.say(finished=pb.Finished(kind=pb.Finished.KIND_RAISED, value=b"not JSON", error=error))
    finished = await guest.attachment.wait_ended()
    assert finished is not None
    assert (finished.kind, finished.value) == (FinishedKind.RAISED, None)
    assert finished.error == GuestError("T" * 200, "m" * 16384, 4, 2, "t" * 65536)


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../../b", "a//b", "", ".", "a\0b", "x" * 2000])
async def test_an_artifact_that_points_elsewhere_ends_the_stream(guest: RawGuest, tools: Tools, path: str) -> None:
    collected = Collected(1000)
    await guest.hello()
    await guest.attachment.wait_attached()
    binding = Heard().binding(tools.gateway())
    binding = type(binding)(binding.gateway, binding.on_output, collected.artifact)
    await guest.attachment.execute(Execute("e", "pass"), binding)
    await guest.say(artifact=pb.Artifact(path="fine.txt", data=b"1"))
    await guest.say(artifact=pb.Artifact(path=path, data=b"1"))
    assert "is not a plain relative path" in await fault_of(guest)
    assert collected.artifacts == {"fine.txt": b"1"}


async def test_ten_thousand_calls_without_reading_a_reply(guest: RawGuest, tools: Tools) -> None:
    gateway = tools.gateway()
    await guest.attach(gateway)
    padding = "x" * 10_000
    call = json.dumps({"tool_id": "echo", "arguments": {"value": padding}}).encode()
    flooded = 0
    with anyio.move_on_after(3):
        for number in range(10_000):
            await guest.call(number, "run_tool", call)
            flooded += 1
    # 100 MB of replies nobody reads: the host stops reading instead of piling them up.
    assert flooded < 10_000
    assert service.MAX_IN_FLIGHT <= len(gateway.calls) < 10_000
    guest.attachment.hang_up()
    with anyio.fail_after(SECONDS):
        assert await guest.attachment.wait_ended() is None
    assert all(call.status is not None for call in await ended_calls(gateway))


async def test_no_more_than_a_bound_of_calls_at_once(guest: RawGuest, tools: Tools) -> None:
    gateway = tools.gateway()
    await guest.attach(gateway)
    for number in range(service.MAX_IN_FLIGHT + 100):
        await guest.call(number, "run_tool", HANG)
    await eventually(lambda: tools.working >= service.MAX_IN_FLIGHT)
    await anyio.sleep(0.1)
    assert tools.most_working == service.MAX_IN_FLIGHT
    guest.attachment.hang_up()
    await guest.attachment.wait_ended()
    assert tools.working == 0


async def test_replies_go_to_whoever_asked(guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    for number in range(500):
        await guest.call(number, "run_tool", json.dumps({"tool_id": "echo", "arguments": {"value": number}}).encode())
    replies = [(await guest.hear()).tool_reply for _ in range(500)]
    assert {reply.id: json.loads(reply.value) for reply in replies} == {number: number for number in range(500)}


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("", b"{}", "invalid_input"),
        ("__class__", b"{}", "invalid_input"),
        ("run_tool", b"", "invalid_input"),
        ("run_tool", b"[]", "invalid_input"),
        ("run_tool", b"{}", "invalid_input"),
        ("run_tool", b'{"tool_id": "echo", "arguments": {"value": NaN}}', "invalid_input"),
        ("run_tool", b'{"tool_id": "echo", "arguments": ' + b"[" * 50_000, "invalid_input"),
        ("run_tool", b'{"tool_id": "echo", "extra": 1}', "invalid_input"),
        ("run_tool", b'{"tool_id": "no such"}', "invalid_tool_id"),
        ("run_tool", b'{"tool_id": "nothing"}', "tool_not_found"),
        ("run_tool", b'{"tool_id": "%s"}' % (b"x" * 100_000), "invalid_tool_id"),
        ("run_tool", b'{"tool_id": "echo", "arguments": {"value": "%s"}}' % (b"x" * (1 << 20)), "too_large"),
        ("run_tool", b'{"tool_id": "echo", "arguments": {"value": "%s"}}' % (b"x" * (5 << 20)), "too_large"),
        ("run_chain", b'{"steps": 1}', "invalid_input"),
        ("search_tools", b'{"query": "add", "limit": 100000}', "invalid_input"),
        ("describe_tool", b'{"tool_id": "echo", "level": "everything"}', "invalid_input"),
    ],
)
async def test_a_call_that_cannot_be_made_is_answered(
    guest: RawGuest, tools: Tools, operation: str, arguments: bytes, code: str
) -> None:
    await guest.attach(tools.gateway())
    await guest.call(1, operation, arguments)
    reply = (await guest.hear()).tool_reply
    assert json.loads(reply.error)["code"] == code
    await guest.finish()
    assert await guest.attachment.wait_ended() == Finished(FinishedKind.COMPLETED, None)


async def _expect_cancelled(guest: RawGuest, tools: Tools, end: str) -> None:
    gateway = tools.gateway()
    await guest.attach(gateway)
    await guest.call(1, "run_tool", HANG)
    with anyio.fail_after(SECONDS):
        await tools.started.wait()
    match end:
        case "vanish":
            await guest.vanish()
        case "half-close":
            await guest.stream.done_writing()
        case "finish":
            await guest.finish()
        case "hang up":
            guest.attachment.hang_up()
        case "misbehave":
            await guest.stream.write(pb.GuestFrame())
    with anyio.fail_after(SECONDS):
        await guest.attachment.wait_ended()
    assert tools.working == 0
    (call,) = await ended_calls(gateway)
    assert call.status is CallStatus.CANCELLED
    _, finished = await tools.journal.records("e")
    assert isinstance(finished, CallFinished)
    assert finished.status is CallStatus.CANCELLED


@pytest.mark.parametrize("end", ["vanish", "half-close", "finish", "hang up", "misbehave"])
async def test_however_a_stream_ends_its_tools_are_cancelled_and_recorded(
    guest: RawGuest, tools: Tools, end: str
) -> None:
    await _expect_cancelled(guest, tools, end)


async def test_a_guest_runs_one_snippet(guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    with pytest.raises(ProtocolError, match="a guest runs one"):
        await guest.attachment.execute(Execute("e2", "pass"), Heard().binding(tools.gateway("e2")))
    await guest.finish(b"1")
    assert await guest.attachment.wait_ended() == Finished(FinishedKind.COMPLETED, 1)


async def test_a_guest_that_left_cannot_be_given_a_snippet(guest: RawGuest, tools: Tools) -> None:
    await guest.hello()
    await guest.attachment.wait_attached()
    await guest.vanish()
    with anyio.fail_after(SECONDS):
        assert await guest.attachment.wait_ended() is None
    with pytest.raises(ProtocolError, match="left before"):
        await guest.attachment.execute(Execute("e", "pass"), Heard().binding(tools.gateway()))


async def test_a_call_that_is_not_granted_is_refused_and_recorded(guest: RawGuest, tools: Tools) -> None:
    gateway = tools.gateway(allowed_tools=frozenset({"echo"}))
    await guest.attach(gateway)
    await guest.call(1, "run_tool", b'{"tool_id": "math:add", "arguments": {"a": 1, "b": 2}}')
    assert json.loads((await guest.hear()).tool_reply.error)["code"] == "tool_denied"
    assert [call.status for call in gateway.calls] == [CallStatus.REFUSED]
    await guest.call(2, "list_namespaces", b"{}")
    assert json.loads((await guest.hear()).tool_reply.value) == [""]
