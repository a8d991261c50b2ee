"""Records: append-only facts about executions and tool calls, as frozen data.

Each kind of record is a class with a `kind`, listed in `RECORDS`; `codec.py` turns records into canonical JSON and back
by their annotations, so a new kind needs no more than a class here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, final

from gateway.artifacts import Artifact
from gateway.base import JsonValue
from gateway.payload import encode_as_given, recorded

INLINE_BYTES = 16 << 10
"""Largest blob that is kept within its record; a journal keeps larger ones by digest, each content once."""


@final
class Blob:
    """Bytes by their digest: code, output, a file, or a value as its JSON text.

    As text a value keeps the order of its keys, integers of any size, and the difference of 1 and 1.0. Whoever appends
    a record gives all `data`. In a record that was read, `data` may be None for more than `INLINE_BYTES`:
    `Journal.read` gives it. Two blobs are equal when their digests are. Frozen, and digested when that is asked for.
    """

    __slots__ = ("_sha256", "data", "size_bytes")

    def __init__(self, sha256: str, size_bytes: int, data: bytes | None = None) -> None:
        self._sha256 = sha256
        self.size_bytes: Final = size_bytes
        self.data: Final = data

    def __repr__(self) -> str:
        return f"Blob({self.sha256!r}, {self.size_bytes})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and self.size_bytes == other.size_bytes and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @classmethod
    def of(cls, data: bytes) -> "Blob":
        return cls("", len(data), data)

    @classmethod
    def of_text(cls, text: str) -> "Blob":
        return cls.of(text.encode())

    @classmethod
    def of_json(cls, value: JsonValue) -> "Blob":
        return cls.of(encode_as_given(value))

    @property
    def sha256(self) -> str:
        if not self._sha256 and self.data is not None:
            self._sha256 = hashlib.sha256(self.data).hexdigest()
        return self._sha256

    def without_data(self) -> "Blob":
        return Blob(self.sha256, self.size_bytes)

    def with_data(self, data: bytes) -> "Blob":
        """The same blob with what its journal gave of it."""
        return Blob(self.sha256, self.size_bytes, data)

    def as_json(self) -> JsonValue:
        """The value whose JSON this is; only where `data` is at hand."""
        return json.loads(self.as_bytes())

    def as_text(self) -> str:
        """Only where `data` is at hand."""
        return self.as_bytes().decode()

    def as_bytes(self) -> bytes:
        """Only where `data` is at hand."""
        assert self.data is not None, "read it from its journal first"
        return self.data


EMPTY = Blob.of(b"")
NO_ENV = Blob.of_json({})


class CallStatus(StrEnum):
    """How a tool call ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"
    """Never reached the tool: denied, over budget, malformed, past the deadline, or refused by one of its policies."""
    CANCELLED = "cancelled"
    """The execution ended while the tool was at work."""


class Mode(StrEnum):
    """Why an execution runs."""

    LIVE = "live"
    REPLAY = "replay"
    """Its calls are answered from the records of `parent`, and no tool is called."""
    RESUME = "resume"
    """It begins as a replay of `parent`, which was cut off, and goes on live."""
    SESSION = "session"
    """One of the executions of a session; `parent` is the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What every record says. `tenant_id` is the caller's, and names the chain that the record is part of."""

    kind: ClassVar[str]

    execution_id: str
    tenant_id: str = ""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionStarted(Record):
    """A snippet is about to run.

    `allowed_tools` is None for all tools. `enforced` are the limits that are really held. `caller` has the caller's
    fields that are not at their default. `env` is the JSON of the snippet's environment, `files` its files by path.
    `environment` is what the execution depends on beside these: our version, the backend's, the guest's digest.
    `seed` is 32 random bytes in hex, from which a deterministic guest gets its randomness. `parent` is the execution
    that this one replays, resumes or continues, empty for none.
    """

    kind: ClassVar[str] = "execution_started"

    code: Blob
    language: str
    profile: str
    backend: str
    limits: Mapping[str, JsonValue]
    enforced: tuple[str, ...] = ()
    allowed_tools: tuple[str, ...] | None
    caller: Mapping[str, JsonValue] = field(default_factory=dict)
    env: Blob = NO_ENV
    files: Mapping[str, Blob] = field(default_factory=dict)
    environment: Mapping[str, JsonValue] = field(default_factory=dict)
    seed: str = ""
    mode: Mode = Mode.LIVE
    parent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted(Record):
    """A tool call was asked for. `via` is the operation it came by: run_tool, stream_tool, run_chain, stream_chain or
    run_parallel, or call_tool for one that another tool made.

    `site` is where in the snippet it was made, as its guest tells: the path of its task and a counter; empty for none.
    `arguments` are as the guest gave them; `arguments_sha256` is the same for the same arguments in any order of keys.
    `key` is the idempotency key, empty for none. `warnings` say what is not wrong, and yet not as it should be, such
    as an argument that is deprecated. `tape` is what the guest was told of time since its last call, `reads` what its
    reads of streams gave since the last record, `frame` the id that it gave the call.

    A read is the index of its call, and then in order: how many chunks it gave, the end of the call counted as one,
    and {message, progress, total} for what it told of progress.
    """

    kind: ClassVar[str] = "call_started"

    index: int
    tool_id: str
    arguments: Blob
    arguments_sha256: str = ""
    via: str
    site: str = ""
    key: str = ""
    warnings: tuple[str, ...] = ()
    tape: Blob = EMPTY
    reads: JsonValue = ()
    frame: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished(Record):
    """The tool call with this index ended. `error` is {code, message, retryable, details}, None when completed.

    `result` is the whole result when completed, None otherwise. A streamed result is in `chunks` instead: each blob is
    a JSON list of some chunks, in order. `usage` is that of `CallUsage`: what was counted, and what policies decided.
    `artifacts` are what its tool attached, by name; of a call that did not complete there are none. `reads` are as in
    `CallStarted`, given before this end was.
    """

    kind: ClassVar[str] = "call_finished"

    index: int
    status: CallStatus
    result: Blob | None
    chunks: tuple[Blob, ...] | None = None
    error: Mapping[str, JsonValue] | None
    attempts: int
    duration_seconds: float
    usage: Mapping[str, JsonValue] = field(default_factory=dict)
    artifacts: Mapping[str, Blob] = field(default_factory=dict)
    reads: JsonValue = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFinished(Record):
    """The execution ended. `outcome` is a value of `Outcome`, or the code of what failed on the host's side.

    `value` is None unless completed; the other fields are those of `ExecutionResult`. `evidence` is what was in force.
    `tape` and `reads` are as in `CallStarted`.
    """

    kind: ClassVar[str] = "execution_finished"

    outcome: str
    duration_seconds: float
    value: Blob | None = None
    value_is_repr: bool = False
    error: Mapping[str, JsonValue] | None = None
    limit: str = ""
    exit_code: int | None = None
    stdout: Blob = EMPTY
    stderr: Blob = EMPTY
    truncated: tuple[str, ...] = ()
    artifacts: Mapping[str, Blob] = field(default_factory=dict)
    usage: Mapping[str, JsonValue] = field(default_factory=dict)
    evidence: Mapping[str, JsonValue] = field(default_factory=dict)
    tape: Blob = EMPTY
    reads: JsonValue = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested(Record):
    """The call with this index waits for a person; it was not made. `arguments` are those that it would be made with,
    and `arguments_sha256` theirs before secrets were masked; `reason` is why it needs a person, `expires_at` None for
    no end of waiting."""

    kind: ClassVar[str] = "approval_requested"

    index: int
    tool_id: str
    arguments: Blob
    arguments_sha256: str
    reason: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecided(Record):
    """A person decided on the call with this index: `verdict` is approved, rejected, edited or expired.

    `arguments` are those that the call is made with instead, when edited. `by` is who decided, as the host says.
    """

    kind: ClassVar[str] = "approval_decided"

    index: int
    verdict: str
    arguments: Blob | None = None
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsPruned(Record):
    """Records of this tenant were deleted by policy; the journal's own, with no execution.

    `ranges` are the first and last sequences of those whose content is gone. Up to `base_sequence` nothing at all is
    left of them; `base_hash` is where the chain begins now.
    """

    kind: ClassVar[str] = "records_pruned"

    reason: str
    executions: int
    ranges: JsonValue
    base_sequence: int
    base_hash: str


RECORDS: Mapping[str, type[Record]] = {
    record.kind: record
    for record in (
        ExecutionStarted,
        CallStarted,
        ApprovalRequested,
        ApprovalDecided,
        CallFinished,
        ExecutionFinished,
        RecordsPruned,
    )
}
"""Every kind of record, by its name."""


_sorted = json.JSONEncoder(allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def arguments_sha256(arguments: JsonValue) -> str:
    """The same for the same arguments in any order of keys."""
    return hashlib.sha256(_sorted(arguments).encode()).hexdigest()


def blobs_of(record: Record) -> list[Blob]:
    """Every blob in a record."""
    found: list[Blob] = []
    for name in _BLOB_FIELDS[record.kind]:
        value = getattr(record, name)
        if isinstance(value, Blob):
            found.append(value)
        elif value:
            found.extend(value if isinstance(value, tuple) else value.values())
    return found


_BLOB_FIELDS: Mapping[str, tuple[str, ...]] = {
    kind: tuple(one.name for one in fields(record) if "Blob" in str(one.type)) for kind, record in RECORDS.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call as far as it is known: `CallStarted` and `CallFinished` in one. `status` is None while it runs.

    `result` and `arguments` over 64 KiB of JSON are {truncated: true, bytes, head}; the records have them whole.
    `artifacts` are what its tool attached; none for a result that comes from a cache or an earlier call.
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
    site: str = ""
    key: str = ""
    usage: Mapping[str, JsonValue] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = ()

    @classmethod
    def of(cls, started: CallStarted, finished: CallFinished | None) -> "ToolCall":
        """What its records say. Of values that are not at hand it has the size; what was attached must be at hand."""
        return cls(
            index=started.index,
            tool_id=started.tool_id,
            arguments=_recorded(started.arguments),
            started_at=started.at,
            via=started.via,
            site=started.site,
            key=started.key,
            warnings=started.warnings,
            **(_NO_END if finished is None else _end(finished)),
        )


_NO_END: Mapping[str, Any] = {"status": None, "result": None, "error": None, "duration_seconds": 0.0, "attempts": 0}


def _end(finished: CallFinished) -> Mapping[str, Any]:
    return {
        "status": finished.status,
        "result": None if finished.result is None else _recorded(finished.result),
        "error": finished.error,
        "duration_seconds": finished.duration_seconds,
        "attempts": finished.attempts,
        "usage": finished.usage,
        "artifacts": tuple(Artifact(name, blob.as_bytes()) for name, blob in finished.artifacts.items()),
    }


def _recorded(blob: Blob) -> JsonValue:
    return {"truncated": True, "bytes": blob.size_bytes, "head": ""} if blob.data is None else recorded(blob.data)
