"""Run an agent's code in a sandbox that can call the host's tools, and nothing else.

from sandbox import Exec

with Exec() as exec:
    result = exec.execute_code("1 + 1")
"""

from gateway.approvals import PendingApproval
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
    ReplayDiverged,
    SandboxError,
    SandboxLost,
    ToolError,
    ToolUnavailable,
)
from gateway.events import CallEvent
from gateway.health import HealthStatus, HealthSummary, SourceHealth, ToolHealth
from gateway.policies.base import Policies
from gateway.secrets import SecretRef
from gateway.selection import Decision, ToolGroup
from gateway.sources import Offer, SourceReport, ToolSource
from gateway.tools.model import Tool, ToolExample, ToolId
from runtimes.base import Capabilities, Outcome
from runtimes.limits import Limits
from runtimes.pool import PoolMetrics
from sandbox.durable import ApprovalDecision, ReplayReport
from sandbox.exec import AsyncExec
from sandbox.result import Artifact, Event, ExecutionResult, GuestError, ToolCall
from sandbox.session import Session
from sandbox.sync import Exec

__all__ = [
    "ApprovalDecision",
    "Artifact",
    "AsyncExec",
    "BackendUnavailable",
    "Busy",
    "CallEvent",
    "CallOutcome",
    "Caller",
    "Capabilities",
    "ChainResult",
    "ChainStep",
    "Closed",
    "Decision",
    "Event",
    "Exec",
    "ExecutionFailed",
    "ExecutionResult",
    "GuestError",
    "HealthStatus",
    "HealthSummary",
    "InvalidRequest",
    "Limits",
    "MissingExtra",
    "Offer",
    "Outcome",
    "ParallelCall",
    "PendingApproval",
    "Policies",
    "PolicyDenied",
    "PoolMetrics",
    "Progress",
    "ReplayDiverged",
    "ReplayReport",
    "SandboxError",
    "SandboxLost",
    "SecretRef",
    "Session",
    "SourceHealth",
    "SourceReport",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolError",
    "ToolEvent",
    "ToolExample",
    "ToolGroup",
    "ToolHealth",
    "ToolId",
    "ToolPage",
    "ToolSource",
    "ToolSummary",
    "ToolUnavailable",
]
