"""Run an agent's code in a sandbox that can call the host's tools, and nothing else.

from sandbox import Exec

with Exec() as exec:
    result = exec.execute_code("1 + 1")
"""

from gateway.base import CallOutcome, ChainResult, ChainStep, ParallelCall, ToolSummary
from gateway.errors import (
    BackendUnavailable,
    Busy,
    Closed,
    ExecutionFailed,
    InvalidRequest,
    PolicyDenied,
    SandboxError,
    SandboxLost,
    ToolError,
)
from gateway.tools.model import Tool, ToolExample
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
    "Outcome",
    "ParallelCall",
    "PolicyDenied",
    "PoolMetrics",
    "SandboxError",
    "SandboxLost",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolExample",
    "ToolSummary",
]
