"""What the journal is told of an execution: how it starts, and how it ends."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version as installed_version
from typing import Any

from gateway.base import JsonValue
from gateway.context import ANYBODY, Caller
from gateway.errors import SandboxError
from gateway.journal.base import Blob, ExecutionFinished, ExecutionStarted
from gateway.payload import MAX_ERROR_TEXT, MAX_RECORDED_BYTES, encode, printable, recorded
from runtimes.base import Capabilities
from sandbox.policy import Decision
from sandbox.request import Request
from sandbox.result import ExecutionResult

SEED_BYTES = 32


def started(execution_id: str, request: Request, decision: Decision, found: Capabilities) -> ExecutionStarted:
    return ExecutionStarted(
        execution_id=execution_id,
        tenant_id=request.caller.tenant_id,
        at=datetime.now(UTC),
        code=Blob.of_text(request.code),
        language=request.language,
        profile=request.profile.name,
        backend=decision.backend,
        limits={str(name): bound for name, bound in decision.limits.asked().items()},
        enforced=tuple(sorted(decision.enforced)),
        allowed_tools=None if request.allowed_tools is None else tuple(sorted(request.allowed_tools)),
        caller=caller_json(request.caller),
        env=Blob.of_json(dict(request.env)),
        files={path: Blob.of(data) for path, data in request.files.items()},
        environment=environment(found),
        seed=secrets.token_hex(SEED_BYTES),
    )


def ended(result: ExecutionResult, request: Request) -> ExecutionFinished:
    return ExecutionFinished(
        execution_id=result.execution_id,
        tenant_id=request.caller.tenant_id,
        at=datetime.now(UTC),
        outcome=result.outcome,
        duration_seconds=result.duration_seconds,
        value=Blob.of_json(result.value) if result.ok else None,
        value_is_repr=result.value_is_repr,
        error=None if result.error is None else asdict(result.error),
        limit=str(result.limit or ""),
        exit_code=result.exit_code,
        stdout=Blob.of_text(result.stdout),
        stderr=Blob.of_text(result.stderr),
        truncated=tuple(sorted(result.truncated)),
        artifacts={artifact.path: Blob.of(artifact.data) for artifact in result.artifacts},
        usage={name: used for name, used in asdict(result.usage).items() if used is not None},
        evidence=_bounded(result.evidence),
    )


def cut_off(execution_id: str, request: Request, error: BaseException, duration_seconds: float) -> ExecutionFinished:
    """The end of an execution that failed on the host's side, or was cancelled."""
    failed = isinstance(error, SandboxError)
    return ExecutionFinished(
        execution_id=execution_id,
        tenant_id=request.caller.tenant_id,
        at=datetime.now(UTC),
        outcome=error.code if isinstance(error, SandboxError) else "cancelled",
        duration_seconds=duration_seconds,
        error={"type": type(error).__name__, "message": printable(str(error), MAX_ERROR_TEXT)} if failed else None,
    )


def caller_json(caller: Caller) -> dict[str, JsonValue]:
    """The fields that are not at their default."""
    found = {field.name: getattr(caller, field.name) for field in fields(Caller)}
    return {
        name: sorted(value) if isinstance(value, frozenset) else dict(value) if isinstance(value, Mapping) else value
        for name, value in found.items()
        if value != getattr(ANYBODY, name)
    }


def environment(found: Capabilities) -> dict[str, JsonValue]:
    """What an execution depends on beside its request: versions, and what the backend says of its guest."""
    return {
        "toolexec": _own_version(),
        "backend": found.kind,
        "backend_version": found.version,
        "details": _bounded(found.details),
    }


def _bounded(facts: Mapping[str, Any]) -> dict[str, JsonValue]:
    """A part of it is the guest's own word, and may be as long as that likes."""
    data = encode(dict(facts))
    kept: dict[str, JsonValue] = recorded(data)
    return dict(facts) if len(data) <= MAX_RECORDED_BYTES else kept


@lru_cache(maxsize=1)
def _own_version() -> str:
    return installed_version("toolexec")
