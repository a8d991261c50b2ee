"""What a tool is: its id, its schemas, its words for the model, and the provider that answers."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from gateway.base import JsonValue
from gateway.errors import InvalidRequest, InvalidToolId
from gateway.providers.base import Provider

RESERVED_NAMES = frozenset(
    {
        "ToolError",
        "aio",
        "describe_tool",
        "list_namespaces",
        "list_tool_examples",
        "run_chain",
        "run_parallel",
        "run_tool",
        "search_tools",
    }
)
"""Attributes of the guest's `tools` object; a tool or namespace of that name could not be reached."""

_PART = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_VERSION = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?")


@dataclass(frozen=True, slots=True)
class ToolId:
    """`name`, `namespace:name` or `namespace:name:version`. Raises InvalidToolId.

    Each part is 1 to 128 characters of A-Z a-z 0-9 _ . and -. A version needs a namespace, so that every id has one
    spelling.
    """

    name: str
    namespace: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        self._check("name", self.name)
        if self.namespace:
            self._check("namespace", self.namespace)
        if self.version:
            self._check("version", self.version)
            if not self.namespace:
                raise InvalidToolId(f"{self.name} {self.version}", "a version needs a namespace")

    @classmethod
    def parse(cls, text: str) -> "ToolId":
        parts = text.split(":", 3)
        if not all(parts):
            raise InvalidToolId(text, "a part is empty")
        match parts:
            case [name]:
                return cls(name)
            case [namespace, name]:
                return cls(name, namespace)
            case [namespace, name, version]:
                return cls(name, namespace, version)
        raise InvalidToolId(text, "it has more than two colons")

    def __str__(self) -> str:
        if self.version:
            return f"{self.namespace}:{self.name}:{self.version}"
        return f"{self.namespace}:{self.name}" if self.namespace else self.name

    @property
    def unversioned(self) -> str:
        return f"{self.namespace}:{self.name}" if self.namespace else self.name

    def check_reachable(self) -> None:
        """Raise InvalidToolId when the guest's `tools` object has other uses for the name or namespace."""
        for part in filter(None, (self.name, self.namespace)):
            if part in RESERVED_NAMES or part.startswith("_"):
                raise InvalidToolId(str(self), f"{part!r} is reserved; choose another name")

    def _check(self, what: str, part: str) -> None:
        if not _PART.fullmatch(part):
            shown = ":".join(filter(None, (self.namespace, self.name, self.version)))
            raise InvalidToolId(shown, f"its {what} must be 1 to 128 characters of A-Z a-z 0-9 _ . -")


def version_key(version: str) -> tuple[Any, ...]:
    """Sorts versions: Semantic Versioning's order where it parses as such (1.2 counts as 1.2.0), text below that."""
    parsed = _VERSION.fullmatch(version)
    if parsed is None:
        return (0, version)
    release = tuple(int(part or 0) for part in parsed.group(1, 2, 3))
    pre = parsed.group(4)
    if pre is None:
        return (1, release, (1,), version)
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in pre.split("."))
    return (1, release, (0, parts), version)


@dataclass(frozen=True, slots=True)
class ToolExample:
    """A worked call: arguments that fit the input schema, and what the result looks like, in words."""

    title: str
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    result_hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool of the host.

    The schemas are JSON Schema 2020-12 (or draft-07, when `$schema` says so); `input_schema` describes an object,
    `output_schema` None means any JSON. `timeout_seconds` bounds one call. `description` and `notes` are for the model.
    """

    id: ToolId
    provider: Provider
    description: str = ""
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    examples: tuple[ToolExample, ...] = ()
    notes: str = ""
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not (self.timeout_seconds > 0 and math.isfinite(self.timeout_seconds)):
            raise InvalidRequest(f"timeout_seconds of {self.id} must be above 0 and finite, not {self.timeout_seconds}")
