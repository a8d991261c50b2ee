"""What a provider is told of the call that it answers: on whose behalf, for which execution, until when."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.artifacts import Attach, checked
from gateway.base import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """On whose behalf calls are made. The host says so, never the guest; every field may be left out.

    `role` is compared with the roles of a tool; `extras` is for the host's own tools.
    """

    tenant_id: str = ""
    user_id: str = ""
    session_id: str = ""
    role: str = ""
    permissions: frozenset[str] = frozenset()
    trace_id: str = ""
    locale: str = ""
    timezone: str = ""
    extras: Mapping[str, JsonValue] = field(default_factory=dict)


ANYBODY = Caller()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is: `progress` of `total` (None where nobody knows), and a line for a person."""

    message: str = ""
    progress: float | None = None
    total: float | None = None


CallTool: TypeAlias = Callable[[str, Mapping[str, JsonValue]], Awaitable[JsonValue]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """One call, as its provider sees it. `deadline` is in seconds of `time.monotonic()`, None for no deadline.

    `call_index` is the position among the execution's calls. Calls of the host itself have an execution of their own.
    `idempotency_key` is the same for calls that are the same, empty where the tool has none.

    `call_tool(id, arguments)` makes another call for the same caller, validated and recorded as part of the execution.
    It is the host's own: roles and policies hold for it, the execution's list of tools and its budget do not. None
    where a provider is called without a gateway, and then what is attached goes nowhere.
    """

    tool_id: str = ""
    caller: Caller = ANYBODY
    execution_id: str = ""
    call_index: int = 0
    idempotency_key: str = ""
    deadline: float | None = None
    on_progress: Callable[[Progress], None] | None = None
    call_tool: CallTool | None = field(default=None, compare=False, repr=False)
    on_attach: Attach | None = field(default=None, compare=False, repr=False)

    def report(self, message: str = "", *, progress: float | None = None, total: float | None = None) -> None:
        """Tell whoever watches the call how far it is; nobody may be watching. From any thread."""
        if self.on_progress is not None:
            self.on_progress(Progress(message, progress, total))

    def attach(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Hand the host something beside the result, such as a PDF or a picture; no guest sees it. From any thread.

        `name` is a plain relative path; the same name again replaces. It is kept with the call's record when the call
        succeeds. Raises InvalidRequest, and PayloadTooLarge past what the tools of one execution may attach together:
        16 MiB, and 100 names.
        """
        artifact = checked(name, data)
        if self.on_attach is not None:
            self.on_attach(artifact)

    def remaining_seconds(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
