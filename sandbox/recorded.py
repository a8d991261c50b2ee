"""What the journal is told of an execution: how it starts, and how it ends."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version as installed_version
from secrets import token_hex
from typing import Any

from gateway.base import JsonValue
from gateway.context import ANYBODY, Caller
from gateway.errors import SandboxError
from gateway.journal.base import Blob, ExecutionFinished, ExecutionStarted
from gateway.payload import MAX_ERROR_TEXT, MAX_RECORDED_BYTES, encode_as_given, printable, recorded
from gateway.secrets import Secrets
from runtimes.base import Capabilities, Usage
from sandbox.policy import Decision
from sandbox.request import Request
from sandbox.result import ExecutionResult

SEED_BYTES = 32
_USAGE = tuple(field.name for field in fields(Usage))


def started(
    execution_id: str, request: Request, decision: Decision, found: Capabilities, secrets: Secrets | None
) -> ExecutionStarted:
    return ExecutionStarted(
        execution_id=execution_id,
        tenant_id=request.caller.tenant_id,
        at=datetime.now(UTC),
        code=_text(request.code, secrets),
        language=request.language,
        profile=request.profile.name,
        backend=decision.backend,
        limits={str(name): bound for name, bound in decision.limits.asked().items()},
        enforced=tuple(sorted(decision.enforced)),
        allowed_tools=None if request.allowed_tools is None else tuple(sorted(request.allowed_tools)),
        caller=_json(caller_json(request.caller), secrets),
        env=Blob.of_json(_json(dict(request.env), secrets)),
        files={_words(path, secrets): _bytes(data, secrets) for path, data in request.files.items()},
        environment=environment(found),
        seed=token_hex(SEED_BYTES),
    )


def ended(result: ExecutionResult, request: Request, secrets: Secrets | None) -> ExecutionFinished:
    return ExecutionFinished(
        execution_id=result.execution_id,
        tenant_id=request.caller.tenant_id,
        at=datetime.now(UTC),
        outcome=result.outcome,
        duration_seconds=result.duration_seconds,
        value=Blob.of_json(_json(result.value, secrets)) if result.ok else None,
        value_is_repr=result.value_is_repr,
        error=None if result.error is None else _json(asdict(result.error), secrets),
        limit=str(result.limit or ""),
        exit_code=result.exit_code,
        stdout=_text(result.stdout, secrets),
        stderr=_text(result.stderr, secrets),
        truncated=tuple(sorted(result.truncated)),
        artifacts={_words(one.path, secrets): _bytes(one.data, secrets) for one in result.artifacts},
        usage={name: used for name in _USAGE if (used := getattr(result.usage, name)) is not None},
        evidence=_json(_bounded(result.evidence) if result.evidence.get("guest") else dict(result.evidence), secrets),
    )


def cut_off(
    execution_id: str, request: Request, error: BaseException, duration_seconds: float, secrets: Secrets | None
) -> ExecutionFinished:
    """The end of an execution that failed on the host's side, or was cancelled."""
    failed = isinstance(error, SandboxError)
    message = printable(_words(str(error), secrets), MAX_ERROR_TEXT)
    return ExecutionFinished(
        execution_id=execution_id,
        tenant_id=request.caller.tenant_id,
        at=datetime.now(UTC),
        outcome=error.code if isinstance(error, SandboxError) else "cancelled",
        duration_seconds=duration_seconds,
        error={"type": type(error).__name__, "message": message} if failed else None,
    )


def caller_json(caller: Caller) -> dict[str, JsonValue]:
    """The fields that are not at their default."""
    if caller is ANYBODY:
        return {}
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
    data = encode_as_given(dict(facts))
    return dict(facts) if len(data) <= MAX_RECORDED_BYTES else recorded(data)


def _words(text: str, secrets: Secrets | None) -> str:
    """The same without secrets, as is all below: records are read by more people than may know them."""
    return text if secrets is None else secrets.text(text)


def _text(text: str, secrets: Secrets | None) -> Blob:
    return Blob.of_text(_words(text, secrets))


def _bytes(data: bytes, secrets: Secrets | None) -> Blob:
    return Blob.of(data if secrets is None else secrets.data(data))


def _json(value: Any, secrets: Secrets | None) -> Any:
    return value if secrets is None else secrets.value(value)


@lru_cache(maxsize=1)
def _own_version() -> str:
    return installed_version("toolexec")
