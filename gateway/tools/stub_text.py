"""The part of a stub text that is the same for all tools: what can be asked of the gateway itself."""

HEADER = '''
"""The tools of the host. Call them by keyword: `tools.namespace.name(argument=value)`; `tools.aio` is for `await`."""

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from typing import Any, Literal, NotRequired, overload
from typing_extensions import TypedDict
'''

WORDS = {
    **dict.fromkeys(("AsyncGenerator", "Generator", "Iterable", "Mapping"), "collections.abc"),
    **dict.fromkeys(("Any", "Literal", "NotRequired", "overload"), "typing"),
    "TypedDict": "typing_extensions",
    **dict.fromkeys(("Exception", "bool", "dict", "float", "int", "list", "staticmethod", "str", "tuple"), "builtins"),
}
"""Every word of Python's in a stub text, and its module. A tool may have the same name."""

TYPES = '''
class ToolError(Exception):
    """A call gave no result. `code` names the reason; `retryable` says whether the same call may work later."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]

class _Hit(TypedDict):
    id: str
    name: str
    namespace: str
    description: str
    score: float

class _Page(TypedDict):
    tools: list[_Hit]
    cursor: str | None

class _Outcome(TypedDict):
    tool_id: str
    ok: bool
    value: Any
    error: dict[str, Any] | None
    duration_seconds: float

class _StepOutcome(_Outcome):
    skipped: bool

class _ChainResult(TypedDict):
    value: Any
    steps: list[_StepOutcome]

class _Event(TypedDict):
    kind: Literal["progress", "chunk", "done", "error"]
    data: Any
    error: dict[str, Any] | None

class _Call(TypedDict):
    tool_id: str
    arguments: NotRequired[Mapping[str, Any]]
    timeout_seconds: NotRequired[float | None]

class _Step(_Call):
    use_previous: NotRequired[bool]
    stop_on_error: NotRequired[bool]
    mapping: NotRequired[Mapping[str, str]]

class _Example(TypedDict):
    title: str
    arguments: dict[str, Any]
    result_hint: str
'''

RUN_TOOL = '''
def run_tool(
    tool_id: str, arguments: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = None
) -> Any:
    """Call one tool by its id, `namespace:name`."""
'''

OPERATIONS = (
    '''
def stream_tool(
    tool_id: str, arguments: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = None
) -> Generator[_Event, None, None]:
    """Call one tool and take what happens as it happens; the last event is `done` or `error`."""
''',
    '''
def run_chain(
    steps: Iterable[_Step | tuple[str, Mapping[str, Any]]], *, timeout_seconds: float | None = None
) -> _ChainResult:
    """Call tools one after another. `mapping` fills arguments by JSON Pointer into {previous, steps}."""
''',
    '''
def stream_chain(
    steps: Iterable[_Step | tuple[str, Mapping[str, Any]]], *, timeout_seconds: float | None = None
) -> Generator[_Event, None, None]:
    """The same, step by step: each is a `chunk`, and the next one begins when it is asked for."""
''',
    '''
def run_parallel(
    calls: Iterable[_Call | tuple[str, Mapping[str, Any]]],
    *,
    max_concurrent: int | None = None,
    timeout_seconds: float | None = None,
) -> list[_Outcome]:
    """Call tools at the same time; the outcomes keep the order. A call that fails does not stop the others."""
''',
    '''
def search_tools(
    query: str = "", limit: int = 10, *, namespace: str | None = None, tags: Iterable[str] = ()
) -> list[_Hit]:
    """Find tools by words, the best first."""
''',
    '''
def list_tools(
    limit: int = 100,
    cursor: str | None = None,
    *,
    query: str = "",
    namespace: str | None = None,
    tags: Iterable[str] = (),
) -> _Page:
    """The tools page by page; `cursor` is that of the page before."""
''',
    '''
def describe_tool(tool_id: str, level: Literal["summary", "schema", "full"] = "summary") -> dict[str, Any]:
    """What a tool is for, its schemas, and its examples and notes."""
''',
    '''
def list_namespaces() -> list[str]:
    """The namespaces that hold tools; the empty one stands for tools without."""
''',
    '''
def list_tool_examples(tool_id: str, limit: int = 5) -> list[_Example]:
    """Worked calls of one tool."""
''',
)
