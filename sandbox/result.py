"""What an execution gives back: its outcome and everything that is known about it, as frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from gateway.artifacts import Artifact
from gateway.errors import ExecutionFailed
from gateway.frames import GuestError, StreamName
from gateway.journal.base import ToolCall
from gateway.usage import UsageTotals
from runtimes.base import Outcome, Usage
from runtimes.limits import LimitName, Limits

__all__ = ["Artifact", "Event", "ExecutionResult", "GuestError", "Outcome", "ToolCall", "UsageTotals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """How one execution ended.

    `value` counts when `ok`; `value_is_repr` says that it was no JSON value and this is its repr. `error` has the
    guest's exception, or why it was ended. `limit` names the limit that ended it. `exit_code` is set when it exited.
    stdout and stderr are text with undecodable bytes replaced; `truncated` names the ones that were cut.
    `limits` is what was asked, defaults included, and `enforced` what was really held. `evidence` is what isolation
    was in force, read back where the host allows it; its `guest` part is the guest's own word.
    """

    execution_id: str
    outcome: Outcome
    value: Any = None
    value_is_repr: bool = False
    stdout: str = ""
    stderr: str = ""
    truncated: frozenset[StreamName] = frozenset()
    error: GuestError | None = None
    limit: LimitName | str | None = None
    exit_code: int | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    duration_seconds: float = 0.0
    profile: str
    backend: str
    limits: Limits
    enforced: frozenset[LimitName]
    usage: Usage = field(default_factory=Usage)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the snippet ran to its end."""
        return self.outcome is Outcome.COMPLETED or (self.outcome is Outcome.EXITED and self.exit_code == 0)

    @property
    def tool_usage(self) -> UsageTotals:
        """What its tool calls cost together."""
        return UsageTotals.of(call.usage for call in self.tool_calls)

    def raise_for_outcome(self) -> None:
        """Raise ExecutionFailed, which has this result, unless `ok`."""
        if not self.ok:
            raise ExecutionFailed(f"execution {self.execution_id} {self.summary()}", self)

    def summary(self) -> str:
        """The outcome in a few words, such as `timed_out: stopped at limit wall_seconds`."""
        if self.outcome is Outcome.EXITED:
            return f"exited with code {self.exit_code}"
        if self.error is None:
            return str(self.outcome)
        where = f" (line {self.error.line})" if self.error.line else ""
        return f"{self.outcome}: {self.error.type}: {self.error.message}{where}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a running execution.

    | kind | what is set |
    | --- | --- |
    | started | `execution_id`, `backend` |
    | output | `stream`, `text` |
    | tool_call_started, tool_call_finished | `tool_call` |
    | artifact | `artifact` |
    | finished | `result`; always the last one |
    """

    kind: "EventKind"
    execution_id: str = ""
    backend: str = ""
    stream: StreamName | None = None
    text: str = ""
    tool_call: ToolCall | None = None
    artifact: Artifact | None = None
    result: ExecutionResult | None = None


EventKind: TypeAlias = Literal["started", "output", "tool_call_started", "tool_call_finished", "artifact", "finished"]
