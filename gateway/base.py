"""The gateway protocol: what a guest may ask of the host's tools, and the data that crosses that line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

JsonValue: TypeAlias = Any
"""None, bool, int, finite float, str, list of JsonValue, dict of str to JsonValue. Checked where bytes are decoded."""

DetailLevel: TypeAlias = Literal["summary", "schema", "full"]

MAX_ARGUMENTS_BYTES = 1 << 20
"""Largest arguments of one call, as JSON."""

MAX_RESULT_BYTES = 4 << 20
"""Largest result of one call, as JSON."""

MAX_BATCH = 1000
"""Most steps of a chain, and most calls of a parallel batch."""


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One step of a chain.

    `use_previous` passes the previous step's result as the argument `previous`; `stop_on_error` skips the steps after
    this one when it fails.
    """

    tool_id: str
    arguments: Mapping[str, JsonValue]
    use_previous: bool = False
    stop_on_error: bool = True


@dataclass(frozen=True, slots=True)
class ParallelCall:
    """One call of a parallel batch."""

    tool_id: str
    arguments: Mapping[str, JsonValue]


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


class Gateway(Protocol):
    """What one execution may do. Every call is checked against its grant and recorded before it is made.

    All operations raise a `ToolError` when they give no result; `DirectGateway` in process and `GatewayClient` over
    gRPC raise the same classes with the same codes.
    """

    async def run_tool(self, tool_id: str, arguments: Mapping[str, JsonValue]) -> JsonValue:
        """Call one tool with arguments that fit its input schema; return its result.

        Raises InvalidToolId, ToolNotFound, ToolDenied, BudgetExceeded, DeadlineExceeded, InvalidInput, InvalidOutput,
        ToolFailed, ToolTimeout, PayloadTooLarge.
        """
        ...

    async def run_chain(self, steps: Sequence[ChainStep]) -> ChainResult:
        """Call tools one after another. A failing step is in the result; no steps give `ChainResult(None, ())`.

        Raises BudgetExceeded before anything is called when the whole chain does not fit the budget.
        """
        ...

    async def run_parallel(self, calls: Sequence[ParallelCall]) -> tuple[CallOutcome, ...]:
        """Call independent tools at once; one outcome per call, in the order of `calls`.

        Raises BudgetExceeded before anything is called when the whole batch does not fit the budget.
        """
        ...

    async def search_tools(self, query: str, limit: int = 10) -> tuple[ToolSummary, ...]:
        """The best fits for the words of `query` among the tools of the grant; an empty query lists them by id.

        `limit` is 1 to 100; anything else is InvalidInput.
        """
        ...

    async def describe_tool(self, tool_id: str, level: DetailLevel = "summary") -> dict[str, JsonValue]:
        """What a tool is for (`summary`), also its schemas (`schema`), also examples and notes (`full`)."""
        ...

    async def list_namespaces(self) -> tuple[str, ...]:
        """Namespaces with at least one tool of the grant, sorted; the empty one stands for tools without."""
        ...

    async def list_tool_examples(self, tool_id: str, limit: int = 5) -> tuple[dict[str, JsonValue], ...]:
        """At most `limit` (1 to 100) worked examples: {title, arguments, result_hint}."""
        ...
