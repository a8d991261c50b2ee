"""Run an agent's code in a sandbox that can call the host's tools, and nothing else.

from sandbox import Exec

with Exec() as exec:
    result = exec.execute_code("1 + 1")

What is imported from here is loaded when it is first named.
"""

from typing import TYPE_CHECKING

from gateway.lazy import loader

if TYPE_CHECKING:
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
    from gateway.tools.versions import CompatibleVersions
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
    "CompatibleVersions",
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

_HOMES = {
    "ApprovalDecision": "sandbox.durable",
    "Artifact": "sandbox.result",
    "AsyncExec": "sandbox.exec",
    "BackendUnavailable": "gateway.errors",
    "Busy": "gateway.errors",
    "CallEvent": "gateway.events",
    "CallOutcome": "gateway.base",
    "Caller": "gateway.context",
    "Capabilities": "runtimes.base",
    "ChainResult": "gateway.base",
    "ChainStep": "gateway.base",
    "Closed": "gateway.errors",
    "CompatibleVersions": "gateway.tools.versions",
    "Decision": "gateway.selection",
    "Event": "sandbox.result",
    "Exec": "sandbox.sync",
    "ExecutionFailed": "gateway.errors",
    "ExecutionResult": "sandbox.result",
    "GuestError": "sandbox.result",
    "HealthStatus": "gateway.health",
    "HealthSummary": "gateway.health",
    "InvalidRequest": "gateway.errors",
    "Limits": "runtimes.limits",
    "MissingExtra": "gateway.errors",
    "Offer": "gateway.sources",
    "Outcome": "runtimes.base",
    "ParallelCall": "gateway.base",
    "PendingApproval": "gateway.approvals",
    "Policies": "gateway.policies.base",
    "PolicyDenied": "gateway.errors",
    "PoolMetrics": "runtimes.pool",
    "Progress": "gateway.context",
    "ReplayDiverged": "gateway.errors",
    "ReplayReport": "sandbox.durable",
    "SandboxError": "gateway.errors",
    "SandboxLost": "gateway.errors",
    "SecretRef": "gateway.secrets",
    "Session": "sandbox.session",
    "SourceHealth": "gateway.health",
    "SourceReport": "gateway.sources",
    "Tool": "gateway.tools.model",
    "ToolCall": "sandbox.result",
    "ToolContext": "gateway.context",
    "ToolError": "gateway.errors",
    "ToolEvent": "gateway.base",
    "ToolExample": "gateway.tools.model",
    "ToolGroup": "gateway.selection",
    "ToolHealth": "gateway.health",
    "ToolId": "gateway.tools.model",
    "ToolPage": "gateway.base",
    "ToolSource": "gateway.sources",
    "ToolSummary": "gateway.base",
    "ToolUnavailable": "gateway.errors",
}

__getattr__ = loader(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
