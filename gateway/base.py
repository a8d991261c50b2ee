"""The gateway protocol: what a guest may ask of the host's tools, and the data that crosses that line."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, get_args

JsonValue: TypeAlias = Any
"""None, bool, int, finite float, str, list of JsonValue, dict of str to JsonValue. Checked where bytes are decoded."""

DetailLevel: TypeAlias = Literal["summary", "schema", "full"]
LEVELS: tuple[DetailLevel, ...] = get_args(DetailLevel)

MAX_ARGUMENTS_BYTES = 1 << 20
"""Largest arguments of one call, as JSON."""

MAX_RESULT_BYTES = 4 << 20
"""Largest result of one call, as JSON."""

MAX_BATCH = 1000
"""Most steps of a chain, and most calls of a parallel batch."""


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One step of a chain.

    `mapping` fills arguments from earlier results, by JSON Pointer (RFC 6901) into {previous, steps}: `/previous/id` is
    the field `id` of the previous step's result, `/steps/0` the first step's whole result. `use_previous` passes the
    previous result as the argument `previous`. `stop_on_error` skips the steps after this one when it fails.
    `timeout_seconds` bounds this step, None for the tool's own bound only.
    """

    tool_id: str
    arguments: Mapping[str, JsonValue]
    use_previous: bool = False
    stop_on_error: bool = True
    mapping: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ParallelCall:
    """One call of a parallel batch. `timeout_seconds` bounds this call, None for the tool's own bound only."""

    tool_id: str
    arguments: Mapping[str, JsonValue]
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """How one call of a batch or one step of a chain ended.

    Exactly one of `value` and `error` counts: `error` is None when `ok`. A skipped step is not ok and has no error.
    `error` is {code, message, retryable, details}.
    """

    tool_id: str
    ok: bool
    value: JsonValue = None
    error: Mapping[str, JsonValue] | None = None
    skipped: bool = False
    duration_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ChainResult:
    """The last executed step's value (None if it failed or nothing ran), and every step in order."""

    value: JsonValue
    steps: tuple[CallOutcome, ...]


@dataclass(frozen=True, slots=True)
class ToolSummary:
    """A search hit. Higher `score` fits better; scores compare only within one search."""

    id: str
    name: str
    namespace: str
    description: str
    score: float


@dataclass(frozen=True, slots=True)
class ToolEvent:
    """Something that happened in a streamed call.

    | kind | what is set |
    | --- | --- |
    | progress | `data`: {message, progress, total}; some may be left out when the reader is slow |
    | chunk | `data`: the next part of the result |
    | done | `data`: the result, None when it came in chunks; always the last one of a call that worked |
    | error | `error`: {code, message, retryable, details}; always the last one of a call that did not |

    Of a chain each `chunk` is a step that ended or was skipped, {tool_id, ok, skipped, value, error, duration_seconds},
    `progress` counts steps, and `done` has the chain's value.
    """

    kind: "ToolEventKind"
    data: JsonValue = None
    error: Mapping[str, JsonValue] | None = None


ToolEventKind: TypeAlias = Literal["progress", "chunk", "done", "error"]


@dataclass(frozen=True, slots=True)
class ToolPage:
    """Some of the tools, by id. `cursor` leads to the next ones, None when there are no more."""

    tools: tuple[ToolSummary, ...]
    cursor: str | None


class ToolEvents(Protocol):
    """The events of one call under way, to be closed in any case."""

    def __aiter__(self) -> AsyncIterator[ToolEvent]: ...

    async def batch(self) -> list[ToolEvent]:
        """The next events, as many as are there; none after the last."""
        ...

    async def aclose(self, *, cut_off: bool = False) -> None:
        """End the call, and wait until that is recorded. Idempotent. `cut_off` says that its reader is gone, and did
        not leave it of its own."""
        ...


class Gateway(Protocol):
    """What one execution may do. Every call is checked against its grant and recorded before it is made.

    All operations raise a `ToolError` when they give no result; `DirectGateway` in process and `GatewayClient` over
    gRPC raise the same classes with the same codes.
    """

    async def run_tool(
        self, tool_id: str, arguments: Mapping[str, JsonValue], *, timeout_seconds: float | None = None
    ) -> JsonValue:
        """Call one tool with arguments that fit its input schema; return its result.

        `timeout_seconds` can only shorten the tool's own timeout. Raises InvalidToolId, ToolNotFound, ToolDenied,
        BudgetExceeded, DeadlineExceeded, InvalidInput, InvalidOutput, ToolFailed, ToolUnavailable, ToolTimeout,
        EgressDenied, PayloadTooLarge.
        """
        ...

    def stream_tool(
        self, tool_id: str, arguments: Mapping[str, JsonValue], *, timeout_seconds: float | None = None
    ) -> "ToolEvents":
        """Call one tool and give what happens as it happens. A ToolError is the last event, not an exception.

        `timeout_seconds` bounds each wait for the tool, not the reader.
        """
        ...

    async def run_chain(self, steps: Sequence[ChainStep], *, timeout_seconds: float | None = None) -> ChainResult:
        """Call tools one after another. A failing step is in the result; no steps give `ChainResult(None, ())`.

        `timeout_seconds` bounds the whole chain: the step that is under way then fails, one after it that is not
        skipped is refused, and the others are skipped.
        Raises BudgetExceeded before anything is called when the whole chain does not fit the budget.
        """
        ...

    def stream_chain(self, steps: Sequence[ChainStep], *, timeout_seconds: float | None = None) -> "ToolEvents":
        """The same as `run_chain`, and what happens as it happens: each step as it ends, and progress between them.

        What a tool of a step reports is the chain's progress: of 3 steps, half of the second is 1.5 of 3. A chain that
        cannot begin has one event, its `error`. The next step begins when the reader has taken those before it and
        asks for more; over gRPC, where events are under way, a few steps sooner. `timeout_seconds` counts its time too.
        """
        ...

    async def run_parallel(
        self,
        calls: Sequence[ParallelCall],
        *,
        max_concurrent: int | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[CallOutcome, ...]:
        """Call tools at once; one outcome per call, in the order of `calls`.

        Calls that write to the same resource are made in their order, and so are reads before and after them. At most
        `max_concurrent` (1 to 32, default 32) are under way; `timeout_seconds` bounds the whole batch, and calls that
        it cuts off fail. Raises BudgetExceeded before anything is called when the whole batch does not fit the budget.
        """
        ...

    async def search_tools(
        self, query: str, limit: int = 10, *, namespace: str | None = None, tags: Sequence[str] = ()
    ) -> tuple[ToolSummary, ...]:
        """The best fits for the words of `query` among the tools of the grant; an empty query lists them by id.

        Only those of `namespace` and with all of `tags`. `limit` is 1 to 100; anything else is InvalidInput.
        """
        ...

    async def list_tools(
        self,
        limit: int = 100,
        cursor: str | None = None,
        *,
        query: str = "",
        namespace: str | None = None,
        tags: Sequence[str] = (),
    ) -> ToolPage:
        """The tools of the grant, `limit` (1 to 100) at a time; `cursor` is that of the page before.

        By id, or the best fits for `query` first. Tools that come and go meanwhile do not disturb the others. Raises
        InvalidCursor, InvalidInput.
        """
        ...

    async def describe_tool(self, tool_id: str, level: DetailLevel = "summary") -> dict[str, JsonValue]:
        """What a tool is for (`summary`), also its schemas (`schema`), also examples and notes (`full`)."""
        ...

    async def list_namespaces(self) -> tuple[str, ...]:
        """Namespaces with at least one tool of the grant, sorted; the empty one stands for tools without."""
        ...

    async def list_tool_examples(self, tool_id: str, limit: int = 5) -> tuple[dict[str, JsonValue], ...]:
        """At most `limit` (100) worked examples: {title, arguments, result_hint}. None for 0 and less."""
        ...
