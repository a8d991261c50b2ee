"""What travels on a guest's stream, as the host sees it: frozen data, checked when the service decodes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from gateway.base import JsonValue

StreamName: TypeAlias = Literal["stdout", "stderr"]

MAX_GUEST_FRAME_BYTES = 6 << 20
"""Largest frame a guest may send: a result of 4 MiB fits with room for escapes."""

MAX_HOST_FRAME_BYTES = 24 << 20
"""Largest frame the host sends: the code and 16 MiB of files."""


GUEST_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_HOST_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_GUEST_FRAME_BYTES),
)
"""Channel options of whoever calls the gateway."""

MAX_VALUE_BYTES = 4 << 20
"""Largest value of a snippet, as JSON."""


class FinishedKind(StrEnum):
    """How the guest says its snippet ended."""

    COMPLETED = "completed"
    RAISED = "raised"
    EXITED = "exited"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Hello:
    """A guest's first words. `evidence` is what it sees of its own isolation: reported, never trusted."""

    agent_version: str
    language: str
    evidence: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to one call: `value` is JSON, or `error` is."""

    value: bytes | None = None
    error: bytes | None = None


@dataclass(frozen=True, slots=True)
class Execute:
    """The snippet and what it may see. `files` are relative POSIX paths in its working folder.

    `seed` is where chance in the guest comes from, `unix_micros` when the execution began, and `tape` what an earlier
    run of it was told of time. `earlier` snippets are run first, in the same namespace and unheard.
    `replies` are answers by the ids of calls, given ahead.
    """

    execution_id: str
    code: str
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    value_bytes: int = MAX_VALUE_BYTES
    seed: bytes = b""
    unix_micros: int = 0
    tape: bytes = b""
    earlier: tuple[str, ...] = ()
    replies: Mapping[int, "Reply"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GuestError:
    """An exception that ended a snippet. `line` and `column` are 1-based positions in the snippet, 0 for none."""

    type: str
    message: str
    line: int = 0
    column: int = 0
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """A guest's last words. `value` counts when completed, `error` when raised, `exit_code` when exited.

    `departed` says that it did not do what its tape says.
    """

    kind: FinishedKind
    value: JsonValue = None
    value_is_repr: bool = False
    error: GuestError | None = None
    exit_code: int = 0
    departed: bool = False
