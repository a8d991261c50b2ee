"""Records: append-only facts about executions and tool calls, and the protocol of what keeps them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeAlias

from gateway.base import JsonValue


class CallStatus(StrEnum):
    """How a tool call ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"
    """Never reached the tool: denied, over budget, malformed, past the deadline, or refused by one of its policies."""
    CANCELLED = "cancelled"
    """The execution ended while the tool was at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionStarted:
    """A snippet is about to run. `allowed_tools` is None for all tools."""

    execution_id: str
    at: datetime
    code: str
    language: str
    profile: str
    backend: str
    limits: Mapping[str, JsonValue]
    allowed_tools: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    """A tool call was asked for. `via` is the operation it came by: run_tool, stream_tool, run_chain or run_parallel,
    or call_tool for one that another tool made.

    `key` is its idempotency key, empty for none. `warnings` say what is not wrong, and yet not as it should be, such as
    an argument that is deprecated.
    """

    execution_id: str
    index: int
    at: datetime
    tool_id: str
    arguments: JsonValue
    via: str
    key: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished:
    """The tool call with this index ended. `error` is {code, message, retryable, details}, None when completed.

    `usage` is that of `CallUsage`: what was counted, and what policies decided.
    """

    execution_id: str
    index: int
    at: datetime
    status: CallStatus
    result: JsonValue
    error: Mapping[str, JsonValue] | None
    attempts: int
    duration_seconds: float
    usage: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFinished:
    """The execution ended; `evidence` is what was in force."""

    execution_id: str
    at: datetime
    outcome: str
    duration_seconds: float
    evidence: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call as far as it is known: `CallStarted` and `CallFinished` in one. `status` is None while it runs.

    `result` and `arguments` over 64 KiB of JSON are {truncated: true, bytes, head}.
    """

    index: int
    tool_id: str
    arguments: JsonValue
    status: CallStatus | None
    result: JsonValue
    error: Mapping[str, JsonValue] | None
    started_at: datetime
    duration_seconds: float
    attempts: int
    via: str
    key: str = ""
    usage: Mapping[str, JsonValue] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Record: TypeAlias = ExecutionStarted | CallStarted | CallFinished | ExecutionFinished


class Journal(Protocol):
    """Keeps records in the order they were appended. Safe for any number of concurrent executions."""

    async def append(self, record: Record) -> None:
        """Keep `record`. When this returns the record is as durable as the journal makes it: a call whose start could
        not be recorded is not made, so let errors out."""
        ...

    async def records(self, execution_id: str) -> Sequence[Record]:
        """All records of one execution in order; empty when it is not known."""
        ...

    async def aclose(self) -> None:
        """Release what the journal holds. Idempotent."""
        ...
