"""Run an agent's code in a sandbox that can call the host's tools, and nothing else.

from sandbox import Exec

with Exec() as exec:
    result = exec.execute_code("1 + 1")
"""

from gateway.base import CallOutcome, ChainResult, ChainStep, ParallelCall, ToolEvent, ToolPage, ToolSummary
from gateway.context import Caller, Progress, ToolContext
from gateway.errors import (
    BackendUnavailable,
    Busy,
    Closed,
    ExecutionFailed,
    InvalidRequest,
    MissingExtra,
    PolicyDenied,
    SandboxError,
    SandboxLost,
    ToolError,
    ToolUnavailable,
)
from gateway.policies.base import Policies
from gateway.sources import Offer, SourceReport, ToolSource
from gateway.tools.model import Tool, ToolExample, ToolId
from runtimes.base import Capabilities, Outcome
from runtimes.limits import Limits
from runtimes.pool import PoolMetrics
from sandbox.exec import AsyncExec
from sandbox.result import Artifact, Event, ExecutionResult, GuestError, ToolCall
from sandbox.sync import Exec

__all__ = [
    "Artifact",
    "AsyncExec",
    "BackendUnavailable",
    "Busy",
    "CallOutcome",
    "Caller",
    "Capabilities",
    "ChainResult",
    "ChainStep",
    "Closed",
    "Event",
    "Exec",
    "ExecutionFailed",
    "ExecutionResult",
    "GuestError",
    "InvalidRequest",
    "Limits",
    "MissingExtra",
    "Offer",
    "Outcome",
    "ParallelCall",
    "Policies",
    "PolicyDenied",
    "PoolMetrics",
    "Progress",
    "SandboxError",
    "SandboxLost",
    "SourceReport",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolError",
    "ToolEvent",
    "ToolExample",
    "ToolId",
    "ToolPage",
    "ToolSource",
    "ToolSummary",
    "ToolUnavailable",
]
