"""Runs one snippet in one claimed sandbox: hands it over, collects what comes out, ends it in time, judges its end."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from gateway.artifacts import MAX_ARTIFACT_BYTES, MAX_ARTIFACTS, is_plain
from gateway.attachment import Attachment, Binding
from gateway.base import Gateway
from gateway.errors import ProtocolError
from gateway.frames import Execute, StreamName
from gateway.site import TapeLog
from runtimes._background import said
from runtimes._failure import Stop, Verdict, judge
from runtimes.base import Ending, Sandbox, Usage
from runtimes.limits import LimitName, Limits

_log = logging.getLogger(__name__)

FLOOD_FACTOR = 16
"""A guest that sends this many times its output limit past the host's reading is ended; less is dropped."""

KILL_SECONDS = 10.0
"""Backends end a guest well within this; past it the host goes on and reports the sandbox as lost."""


@dataclass(slots=True)
class Collected:
    """What came out of one execution: bounded, whatever the guest sends."""

    limit_bytes: int | None
    on_output: Callable[[StreamName, bytes], None] | None = None
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    truncated: set[StreamName] = field(default_factory=set)
    artifacts: dict[str, bytearray] = field(default_factory=dict)
    artifact_bytes: int = 0
    dropped_bytes: int = 0

    def output(self, stream: StreamName, data: bytes) -> bool:
        """Keep what fits; return whether the guest is flooding us."""
        buffer = self.stdout if stream == "stdout" else self.stderr
        kept = data if self.limit_bytes is None else data[: max(0, self.limit_bytes - len(buffer))]
        buffer += kept
        if kept and self.on_output is not None:
            self.on_output(stream, kept)
        if len(kept) == len(data):
            return False
        self.truncated.add(stream)
        self.dropped_bytes += len(data) - len(kept)
        return self.limit_bytes is not None and self.dropped_bytes > FLOOD_FACTOR * self.limit_bytes + (1 << 20)

    def artifact(self, path: str, data: bytes) -> None:
        """Append to an artifact. Raise ProtocolError: an honest guest stays within the bounds and names plain paths."""
        if not is_plain(path):
            raise ProtocolError(f"artifact path {path[:100]!r} is not a plain relative path")
        self.artifact_bytes += len(data)
        self.artifacts.setdefault(path, bytearray()).extend(data)
        if self.artifact_bytes > MAX_ARTIFACT_BYTES or len(self.artifacts) > MAX_ARTIFACTS:
            raise ProtocolError(f"more than {MAX_ARTIFACTS} artifacts or {MAX_ARTIFACT_BYTES} bytes of them")


@dataclass(frozen=True, slots=True)
class Ended:
    """One execution's end, before it is put into words for the caller."""

    verdict: Verdict
    value: Any
    value_is_repr: bool
    collected: Collected
    usage: Usage
    evidence: Mapping[str, Any]
    duration_seconds: float
    departed: bool = False


class Supervisor:
    """Supervises one execution. `held` are those of its limits that are really held."""

    def __init__(
        self,
        sandbox: Sandbox,
        attachment: Attachment,
        limits: Limits,
        held: Collection[LimitName],
        collected: Collected,
    ) -> None:
        self._sandbox = sandbox
        self._attachment = attachment
        self._limits = limits
        self._held = held
        self._collected = collected
        self._stop: Stop | None = None

    async def run(self, request: Execute, gateway: Gateway, tape: TapeLog | None = None) -> Ended:
        """Run the snippet to its end; `tape` takes what it is told of time.

        The sandbox is dead when this returns, raises or is cancelled.

        Raises SandboxLost when the sandbox died through no fault of the guest, and what a journal raised.
        """
        started = time.perf_counter()
        self._sandbox.listen(self._output)
        try:
            with anyio.move_on_after(self._limits.wall_seconds) as scope:
                await self._attachment.execute(
                    request, Binding(gateway, self._output, self._collected.artifact, tape=tape or TapeLog())
                )
                await self._attachment.wait_ended()
            if scope.cancelled_caught:
                self.stop(Stop.DEADLINE)
        except ProtocolError:
            pass  # it left before the snippet was sent; how the sandbox ended says why
        finally:
            ending = await end(self._sandbox, self._attachment)
        duration_seconds = time.perf_counter() - started
        if self._attachment.failure is not None:
            raise self._attachment.failure
        return self._ended(ending, duration_seconds)

    def stop(self, reason: Stop) -> None:
        """End the execution; the first reason counts."""
        self.mark(reason)
        self._attachment.hang_up()

    def mark(self, reason: Stop) -> None:
        """However the execution ends, this is why, unless there was a reason before."""
        self._stop = self._stop or reason

    def _output(self, stream: StreamName, data: bytes) -> None:
        if self._collected.output(stream, data):
            self.stop(Stop.OUTPUT_FLOOD)

    def _ended(self, ending: Ending, duration_seconds: float) -> Ended:
        finished, fault = self._attachment.finished, self._attachment.fault
        stop = self._stop or (Stop.PROTOCOL if fault is not None else None)
        if stop in _OVERTAKEN and finished is not None:
            stop = None  # it finished while we were reaching for it
        said = None if stop is Stop.SUSPENDED else finished
        verdict = judge(stop=stop, fault=str(fault or ""), finished=finished, ending=ending, held=self._held)
        hello = self._attachment.hello
        return Ended(
            verdict=verdict,
            value=said.value if said else None,
            value_is_repr=bool(said and said.value_is_repr),
            collected=self._collected,
            usage=self._sandbox.usage(),
            evidence={**self._sandbox.evidence, "guest": dict(hello.evidence) if hello else {}},
            duration_seconds=duration_seconds,
            departed=finished is None or finished.departed,
        )


_OVERTAKEN = (Stop.DEADLINE, Stop.RECORD_ENDS)


async def end(sandbox: Sandbox, attachment: Attachment) -> Ending:
    """Hang up and kill, whatever happens around us: cancellation waits until the sandbox is dead."""
    attachment.hang_up()
    with anyio.move_on_after(KILL_SECONDS, shield=True):
        ending = await _killed(sandbox)
        await attachment.wait_ended()
        return ending
    return Ending(lost=f"the sandbox could not be ended within {KILL_SECONDS:g} s")


async def _killed(sandbox: Sandbox) -> Ending:
    try:
        return await sandbox.kill()
    except Exception as error:  # noqa: BLE001 - a backend that fails at it has lost this sandbox, and no other
        _log.error("a sandbox could not be ended", exc_info=error)
        return Ending(lost=f"it could not be ended: {said(error)}")
