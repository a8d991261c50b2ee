"""What a tool is: its id, its schemas, its words for the model, and the provider that answers."""

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from gateway.base import JsonValue
from gateway.errors import InvalidRequest, InvalidToolId
from gateway.policies.base import NO_POLICIES, Policies
from gateway.providers.base import Provider

InDoubt: TypeAlias = Literal["fail", "ask", "retry"]

RESERVED_NAMES = frozenset(
    {
        "ToolError",
        "aio",
        "describe_tool",
        "list_namespaces",
        "list_tool_examples",
        "list_tools",
        "run_chain",
        "run_parallel",
        "run_tool",
        "search_tools",
        "stream_chain",
        "stream_tool",
    }
)
"""Attributes of the guest's `tools` object; a tool or namespace of that name could not be reached."""

MAX_TAGS = 20
MAX_TAG = 64
"""Most tags of a tool, and most characters of one."""

_PART = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_VERSION_PART = re.compile(r"[A-Za-z0-9_.+-]{1,128}")


@dataclass(frozen=True, slots=True)
class ToolId:
    """`name`, `namespace:name` or `namespace:name:version`. Raises InvalidToolId.

    Each part is 1 to 128 characters of A-Z a-z 0-9 _ . and -, a version also of +. A version without a namespace is
    kept, but is no part of the written id, where it would be taken for a name: such a tool has one version at a time.
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
        return f"{self.unversioned}:{self.version}" if self.version and self.namespace else self.unversioned

    @property
    def unversioned(self) -> str:
        return f"{self.namespace}:{self.name}" if self.namespace else self.name

    def check_reachable(self) -> None:
        """Raise InvalidToolId when the guest's `tools` object has other uses for the name or namespace."""
        for part in filter(None, (self.name, self.namespace)):
            if part in RESERVED_NAMES or part.startswith("_"):
                raise InvalidToolId(str(self), f"{part!r} is reserved; choose another name")

    def _check(self, what: str, part: str) -> None:
        pattern, more = (_VERSION_PART, " +") if what == "version" else (_PART, "")
        if not pattern.fullmatch(part):
            shown = ":".join(filter(None, (self.namespace, self.name, self.version)))
            raise InvalidToolId(shown, f"its {what} must be 1 to 128 characters of A-Z a-z 0-9 _ . -{more}")


@dataclass(frozen=True, slots=True)
class ToolExample:
    """A worked call: arguments that fit the input schema, and what the result looks like, in words."""

    title: str
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    result_hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """All of a tool but its provider: what can be written down. Raises InvalidRequest for values that fit nowhere.

    The schemas are JSON Schema 2020-12 (or draft-07, when `$schema` says so); `input_schema` describes an object,
    `output_schema` None means any JSON. `timeout_seconds` bounds one call. `description` and `notes` are for the model.
    `tags` are brought into their normal form (`normal_tag`), without repetitions, and cut to 20.

    `title`, `read_only`, `destructive`, `idempotent` and `open_world` are MCP's annotations; None is "not said". A tool
    that does not say it is read-only counts as one that writes: calls of a batch that write to the same `resource` are
    made one after another. `resource` may name arguments, as in `account/{id}`; empty stands for the tool's namespace,
    or its name where it has none. With `roles` only callers of one of these roles, in any case, see the tool; `*` is
    every caller. `policies` stand between a call and the provider. `in_doubt` is what becomes of a call that a crash of
    the host cut off, when the tool is not read-only and the call has no idempotency key: it fails, a person is asked,
    or it is made again.
    """

    id: ToolId
    description: str = ""
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    examples: tuple[ToolExample, ...] = ()
    notes: str = ""
    timeout_seconds: float = 30.0
    title: str = ""
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None
    resource: str = ""
    roles: frozenset[str] = frozenset()
    policies: Policies = NO_POLICIES
    in_doubt: InDoubt = "fail"

    def __post_init__(self) -> None:
        if not (self.timeout_seconds > 0 and math.isfinite(self.timeout_seconds)):
            raise InvalidRequest(f"timeout_seconds of {self.id} must be above 0 and finite, not {self.timeout_seconds}")
        if self.in_doubt not in get_args(InDoubt):
            raise InvalidRequest(f"in_doubt of {self.id} must be fail, ask or retry, not {self.in_doubt!r}")
        if not isinstance(self.input_schema, dict):
            raise InvalidRequest(f"input_schema of {self.id} must be an object, not {self.input_schema!r:.200}")
        for name in ("tags", "roles"):
            if isinstance(getattr(self, name), str):
                raise InvalidRequest(f"{name} of {self.id} must be several texts, not one; write [{name[:-1]}]")
        roles = frozenset(role.strip().lower() for role in self.roles)
        if "" in roles:
            raise InvalidRequest(f"a role of {self.id} is empty; leave it out, and use '*' for every caller")
        tags = dict.fromkeys(filter(None, map(normal_tag, self.tags)))
        object.__setattr__(self, "roles", roles)
        object.__setattr__(self, "examples", tuple(self.examples))
        object.__setattr__(self, "tags", tuple(tags)[:MAX_TAGS])


class ToolFields(TypedDict, total=False):
    """What whatever makes tools takes of a `ToolSpec` and passes on: all but id and schemas."""

    description: str
    tags: Iterable[str]
    examples: Iterable[ToolExample]
    notes: str
    timeout_seconds: float
    title: str
    read_only: bool | None
    destructive: bool | None
    idempotent: bool | None
    open_world: bool | None
    resource: str
    roles: Iterable[str]
    policies: Policies
    in_doubt: InDoubt


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool(ToolSpec):
    """One tool of the host, and the provider that answers its calls."""

    provider: Provider


def normal_tag(text: str) -> str:
    """A tag as tools carry it: lower-case letters and digits of any script, `-`, `_` and `.`, at most 64 of them.

    White space becomes `-`, other characters are dropped; what is left may be empty, and is then no tag.
    """
    joined = "-".join(unicodedata.normalize("NFC", text.lower()).split())
    # Marks belong to their letters: without them many scripts cannot be written.
    return "".join(char for char in joined if char in "-_." or unicodedata.category(char)[0] in "LNM")[:MAX_TAG]
