"""Puts what the parts saw into what the caller gets: events while it runs, the result at the end."""

import codecs
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from gateway.frames import GuestError, StreamName
from gateway.journal.base import ToolCall
from runtimes.base import Outcome
from runtimes.supervisor import Ended
from sandbox.policy import Decision
from sandbox.request import Request
from sandbox.result import Artifact, Event, ExecutionResult

if TYPE_CHECKING:
    from runtimes.check import Diagnostic

Observer: TypeAlias = Callable[[Event], None]

_new_decoder = codecs.getincrementaldecoder("utf-8")


def output_observer(observe: Observer) -> Callable[[StreamName, bytes], None]:
    """Turns chunks of bytes into output events; a character split over two chunks arrives with the second."""
    decoders = {"stdout": _new_decoder("replace"), "stderr": _new_decoder("replace")}

    def on_output(stream: StreamName, data: bytes) -> None:
        if text := decoders[stream].decode(data):
            observe(Event("output", stream=stream, text=text))

    return on_output


def unobserved(_event: Event) -> None:
    """For who wants the result alone."""


def call_observer(observe: Observer) -> Callable[[ToolCall], None] | None:
    """Turns the gateway's notices of tool calls into events; None where nobody wants them."""
    if observe is unobserved:
        return None

    def on_call(call: ToolCall) -> None:
        observe(Event("tool_call_started" if call.status is None else "tool_call_finished", tool_call=call))

    return on_call


def make_result(
    execution_id: str, request: Request, decision: Decision, ended: Ended, calls: tuple[ToolCall, ...]
) -> ExecutionResult:
    collected, verdict = ended.collected, ended.verdict
    return ExecutionResult(
        execution_id=execution_id,
        outcome=verdict.outcome,
        value=ended.value,
        value_is_repr=ended.value_is_repr,
        stdout=collected.stdout.decode(errors="replace"),
        stderr=collected.stderr.decode(errors="replace"),
        truncated=frozenset(collected.truncated),
        error=verdict.error,
        limit=verdict.limit,
        exit_code=verdict.exit_code,
        tool_calls=calls,
        artifacts=tuple(Artifact(path, bytes(data)) for path, data in sorted(collected.artifacts.items())),
        duration_seconds=ended.duration_seconds,
        profile=request.profile.name,
        backend=decision.backend,
        limits=decision.limits,
        enforced=decision.enforced,
        usage=ended.usage,
        evidence={"backend": decision.backend, **ended.evidence},
    )


NOT_RUN = {"run": False}
"""All the evidence of an execution that was turned down before it began; others name their backend at least."""


def flawed_result(
    execution_id: str, request: Request, decision: Decision, flaws: "tuple[Diagnostic, ...]"
) -> ExecutionResult:
    """What a snippet gives that was checked and not run: its first flaw, and all of them as the traceback."""
    first = flaws[0]
    more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
    listed = "\n".join(map(str, flaws))
    return ExecutionResult(
        execution_id=execution_id,
        outcome=Outcome.RAISED,
        error=GuestError("TypeCheckError", f"{first.message}{more}", first.line, first.column, listed),
        profile=request.profile.name,
        backend=decision.backend,
        limits=decision.limits,
        enforced=decision.enforced,
        evidence=dict(NOT_RUN),
    )
