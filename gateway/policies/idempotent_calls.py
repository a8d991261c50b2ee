"""Makes a call once: claims its key in the store, keeps its result there, and replays it.

nothing ──claim──▶ running ──result──▶ done ──ttl──▶ nothing
                      └──failure, cancellation, end of the lease──▶ nothing
"""

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import anyio

from gateway.base import MAX_RESULT_BYTES
from gateway.canonical import digest
from gateway.errors import CallInProgress, IdempotencyConflict, ToolError, ToolUnavailable
from gateway.payload import MAX_NESTING, Encoded, NotJsonError, decode, encode
from gateway.policies.base import Call, Emit, Proceed, Services
from gateway.policies.store import OPERATION_SECONDS, WHAT

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

LEASE_MARGIN_SECONDS = 5.0
"""How much longer than the tool's timeout a claim is held without being renewed. After a crash it ends so."""

FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.25
"""Between two looks at a call that another process makes."""

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Record(NamedTuple):
    """What the store has under a key. `same` is the fingerprint of the call, `owner` that of one claim.

    `body` is the result's JSON, None for a call that is under way or whose result could not be kept.
    """

    done: bool
    same: str
    owner: str
    body: bytes | None = None

    def encode(self) -> bytes:
        state = "done" if self.done else "running"
        head = f"1 {state} {self.same} {self.owner} {'gone' if self.body is None else 'kept'}\n"
        return head.encode() + (self.body or b"")

    @classmethod
    def parse(cls, data: bytes) -> "Record":
        """Raises ToolUnavailable: a record that cannot be read may be of a call that was made."""
        head, _, body = data.partition(b"\n")
        match head.split(b" "):
            case [b"1", (b"done" | b"running") as state, same, owner, (b"kept" | b"gone") as kept]:
                names = (same.decode(errors="replace"), owner.decode(errors="replace"))
                return cls(state == b"done", *names, body if kept == b"kept" else None)
        raise ToolUnavailable(WHAT, "it holds a record that cannot be read")


class IdempotentCalls:
    """The policy of one tool. `key_of` makes the key, `owner_of` says who alone is given the result."""

    def __init__(
        self,
        key_of: Callable[[Call], str],
        owner_of: Callable[[Call], str],
        tool: "RegisteredTool",
        services: Services,
        *,
        ttl_seconds: float | None,
        persist_result: bool,
        waits: bool,
    ) -> None:
        self.key = key_of
        self._owner_of = owner_of
        self._prefix = f"idempotency/{tool.id}/"
        self._store = services.store
        self._sleep = services.sleep
        self._ttl_seconds = ttl_seconds
        self._persists = persist_result
        self._waits = waits
        self._running: dict[str, anyio.Event] = {}

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        if not call.key or not self._persists:
            return await proceed(call)
        claim = self._claim_of(call)
        left = call.remaining_seconds()
        ends = time.monotonic() + (call.tool.tool.timeout_seconds if left is None else left)
        pause_seconds = FIRST_PAUSE_SECONDS
        while (found := await self._take(claim)) is not None:
            record = Record.parse(found)
            if record.same != claim.record.same:
                raise IdempotencyConflict(call.tool.id)
            if record.done:
                return await _replay(call, record)
            left = ends - time.monotonic()
            if not self._waits or left <= 0:
                raise CallInProgress(call.tool.id)
            await self._pause(claim.name, pause_seconds, left)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        return await self._make(call, proceed, claim)

    def _claim_of(self, call: Call) -> "_Claim":
        record = Record(done=False, same=digest(self._owner_of(call), call.arguments), owner=secrets.token_hex(16))
        lease_seconds = call.tool.tool.timeout_seconds + LEASE_MARGIN_SECONDS
        return _Claim(self._prefix + call.key, record, record.encode(), lease_seconds)

    async def _take(self, claim: "_Claim") -> bytes | None:
        """None when the key is ours now, and what is there otherwise."""
        try:
            return await self._store.set_if_absent(claim.name, claim.data, claim.lease_seconds)
        except asyncio.CancelledError:
            await self._free(claim)  # it may have been set all the same
            raise

    async def _pause(self, name: str, seconds: float, left: float) -> None:
        """Wait for a call of this process until it ends, and for another's for a little while."""
        running = self._running.get(name)
        if running is None:
            await self._sleep(min(seconds, left))
            return
        with anyio.move_on_after(left):
            await running.wait()

    async def _make(self, call: Call, proceed: Proceed, claim: "_Claim") -> Encoded:
        ended = self._running[claim.name] = anyio.Event()
        try:
            try:
                async with _Renewal(partial(self._renew, claim), claim.lease_seconds / 3):
                    result, body = await _made(call, proceed)
            except BaseException:
                await self._free(claim)
                raise
            await self._keep(call, claim, body)
            return result
        finally:
            if self._running.get(claim.name) is ended:  # not that of a call that took the key when our lease was over
                del self._running[claim.name]
            ended.set()

    async def _renew(self, claim: "_Claim") -> bool:
        """Whether the key is still ours, as far as is known."""
        try:
            return await self._store.replace(claim.name, claim.data, claim.data, claim.lease_seconds)
        except ToolUnavailable as error:
            _log.warning("a claim could not be renewed: %s", error)
            return True

    async def _free(self, claim: "_Claim") -> None:
        """Let the next one try. What cannot be freed ends with its lease."""
        try:
            await _surely(lambda: self._store.delete(claim.name, claim.data))
        except ToolUnavailable as error:
            _log.warning("a claim could not be freed: %s", error)

    async def _keep(self, call: Call, claim: "_Claim", body: bytes | None) -> None:
        """The call was made, so its result is the caller's, whatever happens now. Only a replay may be lost."""
        for kept in (body, None):  # where there is no room for the result, there is for the fact
            done = claim.record._replace(done=True, body=kept).encode()
            try:
                if await _surely(partial(self._settle, claim, done)):
                    return
                break
            except ToolUnavailable as error:
                _log.warning("a result could not be kept: %s", error)
        call.usage.decisions.append("the result could not be kept: the same call may be made again")
        call.tell("result_not_kept")

    async def _settle(self, claim: "_Claim", done: bytes) -> bool:
        """Whether it is there now. After the end of the lease it is only if nobody else has taken the key."""
        if await self._store.replace(claim.name, claim.data, done, self._ttl_seconds):
            return True
        return await self._store.set_if_absent(claim.name, done, self._ttl_seconds) in (None, done)


class _Claim(NamedTuple):
    """One attempt to have a key: what is written under it, and for how long."""

    name: str
    record: Record
    data: bytes
    lease_seconds: float


class _Renewal:
    """Renews a lease while its block runs. Most calls are over before the first time, and cost no task."""

    def __init__(self, renew: Callable[[], Awaitable[bool]], every_seconds: float) -> None:
        self._renew = renew
        self._every_seconds = every_seconds
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._every_seconds, self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while True:
            if not await self._renew():
                return
            await asyncio.sleep(self._every_seconds)


async def _made(call: Call, proceed: Proceed) -> tuple[Encoded, bytes | None]:
    """The result, and what is kept of it: chunks are a list. None when they are too many."""
    if call.emit is None:
        result = await proceed(call)
        return result, result.data
    chunks = _Chunks(call.emit)
    result = await proceed(dataclasses.replace(call, emit=chunks.emit))
    return result, chunks.body()


class _Chunks:
    """Passes chunks on and holds them, up to the size of a result."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._data: list[bytes] = []
        self._bytes = 2

    async def emit(self, chunk: Encoded) -> None:
        await self._emit(chunk)
        self._bytes += len(chunk.data) + 1
        if self._bytes <= MAX_RESULT_BYTES:
            self._data.append(chunk.data)
        else:
            self._data.clear()

    def body(self) -> bytes | None:
        return b"[" + b",".join(self._data) + b"]" if self._bytes <= MAX_RESULT_BYTES else None


async def _replay(call: Call, record: Record) -> Encoded:
    call.usage.idempotency_reused = True
    call.usage.decisions.append("the same call was made before")
    call.tell("replayed")
    if record.body is None:
        raise ToolError(
            f"the same call of tool {call.tool.id!r} was made before, and its result could not be kept; "
            "look at what it did before you make it under another key"
        )
    try:
        value = decode(record.body, MAX_NESTING + 1)
    except NotJsonError as exc:
        raise ToolUnavailable(WHAT, "it holds a record that cannot be read") from exc
    if call.emit is None:
        return Encoded(value, record.body)
    for chunk in value:
        await call.emit(Encoded(chunk, encode(chunk)))
    return Encoded(None, b"null")


async def _surely(step: Callable[[], Awaitable[_T]]) -> _T:
    """What the step gives. When it is cancelled it is made once more, which takes a while at most."""
    try:
        return await step()
    except asyncio.CancelledError:
        with anyio.move_on_after(2 * OPERATION_SECONDS, shield=True):
            await step()
        raise
