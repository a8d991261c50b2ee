"""`execute_code` for clients: what they may ask for, within what the operator allows, and what they are told."""

import base64
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.base import JsonValue
from gateway.errors import InvalidInput, PolicyDenied, ToolDenied
from gateway.grant import Grant
from gateway.tools.registry import ToolRegistry
from gateway.tools.validation import SchemaValidator
from runtimes.limits import LIMIT_NAMES, SECONDS, Limits
from sandbox.profile import PROFILES, profile_named
from sandbox.request import allowed
from sandbox.result import Artifact, ExecutionResult, ToolCall
from sandbox.server.mcp.schemas import ANYTHING, NUMBER, TEXT, items, shape

EXECUTE_CODE = "execute_code"

MAX_ARTIFACT_BYTES = 1 << 20
"""Files that a snippet leaves are handed over up to this, together; of others a client learns name and size."""

_DESCRIPTION = """\
Run a snippet in a sandbox that can call the tools and nothing else: there is no network and no file of the host.
In Python, `tools.<namespace>.<name>(**arguments)` calls a tool (`tools.<name>` where it has no namespace), top-level \
`await` works, and `tools.search_tools(query)` and `tools.describe_tool(id)` are there too. The value is what a \
top-level `return` gives, or else the last expression. Use it to call many tools, and to filter what they give, in one \
go."""

_OUTPUTS = {
    "outcome": TEXT,
    "ok": {"type": "boolean"},
    "value": ANYTHING,
    "value_is_repr": {"type": "boolean"},
    "stdout": TEXT,
    "stderr": TEXT,
    "truncated": items(TEXT),
    "error": {"type": ["object", "null"]},
    "limit": {"type": ["string", "null"]},
    "exit_code": {"type": ["integer", "null"]},
    "tool_calls": items({"type": "object"}),
    "artifacts": items(shape({"path": TEXT, "size_bytes": {"type": "integer"}, "data": {"type": ["string", "null"]}})),
    "duration_seconds": NUMBER,
    "execution_id": TEXT,
    "profile": TEXT,
    "backend": TEXT,
    "enforced": items(TEXT),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRights:
    """The most that a client's snippet may have. A client may ask for less; what it asks for above that is refused.

    `grant` says which tools there are, and for whom; nothing is counted on it.
    """

    profile: str
    limits: Limits
    grant: Grant

    def narrowed(self, arguments: Mapping[str, JsonValue], registry: ToolRegistry) -> dict[str, Any]:
        """Arguments for `AsyncExec.stream_code`. Raises InvalidInput, InvalidRequest, PolicyDenied, ToolDenied."""
        asked = _VALIDATOR.validate_input(dict(arguments))
        return {
            "code": asked["code"],
            "language": asked.get("language"),
            "profile": self._profile(asked.get("profile")),
            "limits": self._limits(Limits.of(asked.get("limits"))),
            "allowed_tools": self._tools(asked.get("allowed_tools"), registry),
            "check": asked.get("check", False),
            "files": asked.get("files"),
            "caller": self.grant.caller,
        }

    def _profile(self, name: str | None) -> str:
        if name is None:
            return self.profile
        if profile_named(name).floor < PROFILES[self.profile].floor:
            raise PolicyDenied(
                f"profile {name!r} protects less than {self.profile!r}, which this server runs code in",
                "Leave `profile` out, or ask for a stricter one",
            )
        return name

    def _limits(self, asked: Limits) -> Limits:
        most = self.limits.asked()
        for name, value in asked.asked().items():
            if name in most and value > most[name]:
                raise InvalidInput(f"limit {name} may be at most {most[name]:g} here, not {value:g}")
        return asked.over(self.limits)

    def _tools(self, asked: list[str] | None, registry: ToolRegistry) -> frozenset[str] | None:
        if asked is None:
            return self.grant.allowed_tools
        return frozenset(self._tool(entry, registry) for entry in allowed(asked))

    def _tool(self, entry: str, registry: ToolRegistry) -> str:
        """The id by which the operator allows it, so that what this id means later is the operator's choice too."""
        if self.grant.allowed_tools is None or entry in self.grant.allowed_tools:
            return entry
        found = registry.find(entry)
        for permitted in (entry,) if found is None else (found.address, found.id):
            if self.grant.permits(permitted):
                return permitted
        raise ToolDenied(entry)


def execute_code_tool(rights: CodeRights) -> dict[str, JsonValue]:
    """`execute_code` as `tools/list` has it."""
    return {
        "name": EXECUTE_CODE,
        "description": _DESCRIPTION,
        "inputSchema": _inputs(rights),
        "outputSchema": shape(_OUTPUTS, tuple(_OUTPUTS)),
        "annotations": {"readOnlyHint": False},
    }


def told(result: ExecutionResult) -> dict[str, JsonValue]:
    """What a client learns of an execution: all but usage and evidence, which are the operator's."""
    return {
        "outcome": str(result.outcome),
        "ok": result.ok,
        "value": result.value,
        "value_is_repr": result.value_is_repr,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "truncated": sorted(result.truncated),
        "error": None if result.error is None else dataclasses.asdict(result.error),
        "limit": result.limit,
        "exit_code": result.exit_code,
        "tool_calls": [_call(call) for call in result.tool_calls],
        "artifacts": list(_artifacts(result.artifacts)),
        "duration_seconds": result.duration_seconds,
        "execution_id": result.execution_id,
        "profile": result.profile,
        "backend": result.backend,
        "enforced": sorted(result.enforced),
    }


def _artifacts(left: Iterable[Artifact]) -> Iterator[JsonValue]:
    """In base64."""
    room = MAX_ARTIFACT_BYTES
    for one in left:
        fits = len(one.data) <= room
        room -= len(one.data) if fits else 0
        data = base64.b64encode(one.data).decode() if fits else None
        yield {"path": one.path, "size_bytes": len(one.data), "data": data}


def _inputs(rights: CodeRights | None) -> dict[str, Any]:
    profiles = [name for name in PROFILES if rights is None or PROFILES[name].floor >= PROFILES[rights.profile].floor]
    most = {} if rights is None else rights.limits.asked()
    fields = {
        "code": TEXT,
        "language": {**TEXT, "description": "python, bash or javascript; left out for the server's default"},
        "profile": {**TEXT, "enum": profiles, "description": "how strictly it is kept apart from the host"},
        "limits": shape({name: _limit(name, most.get(name)) for name in LIMIT_NAMES}, closed=True),
        "allowed_tools": {**items(TEXT), "description": "tool ids and namespace:*; left out for all there are"},
        "check": {"type": "boolean", "description": "look for errors of type first, in Python; if any, run nothing"},
        "files": {
            "type": "object",
            "additionalProperties": TEXT,
            "description": "texts by relative path, for the snippet's folder; what it leaves there comes back",
        },
    }
    return shape(fields, ("code",), closed=True)


def _limit(name: str, most: float | None) -> dict[str, Any]:
    kind = {"type": "number" if name in SECONDS else "integer", "exclusiveMinimum": 0}
    return kind if most is None else kind | {"maximum": most, "default": most}


_VALIDATOR = SchemaValidator(_inputs(None))
"""Of shapes only: what is above the operator's rights is refused with words of its own."""


def _call(call: ToolCall) -> dict[str, JsonValue]:
    return {
        "tool_id": call.tool_id,
        "status": None if call.status is None else str(call.status),
        "duration_seconds": call.duration_seconds,
        "error": None if call.error is None else dict(call.error),
    }
