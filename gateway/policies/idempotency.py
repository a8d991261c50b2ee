"""Which calls are the same, so that a call with an effect is made once: four ways to say it.

A key is a digest of a canonical array, so that no two different lists of parts give the same one; the tenant and the
tool are always among them.
"""

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from gateway.base import JsonValue
from gateway.canonical import digest
from gateway.context import ToolContext
from gateway.errors import InvalidInput, InvalidRequest, ToolError
from gateway.policies.base import Call, Services
from gateway.policies.idempotent_calls import IdempotentCalls

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

OnDuplicate: TypeAlias = Literal["wait", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What all of them share. Raises InvalidRequest.

    | option | meaning | default |
    | --- | --- | --- |
    | `ttl_seconds` | how long a result is replayed, None for ever | 3,600 |
    | `persist_result` | False makes the key for the provider alone: nothing is kept, nothing replayed | True |
    | `bypass_on_missing_key` | without a key field: True runs the call unprotected, False refuses it | False |
    | `on_duplicate` | while the same call is under way: `wait` for its result, or `refuse` | wait |

    As the default of an Exec they leave tools that are `read_only` alone.
    """

    kind: ClassVar[str] = ""

    ttl_seconds: float | None = 3600.0
    persist_result: bool = True
    bypass_on_missing_key: bool = False
    on_duplicate: OnDuplicate = "wait"

    def __post_init__(self) -> None:
        if self.ttl_seconds is not None and not (self.ttl_seconds > 0 and math.isfinite(self.ttl_seconds)):
            raise InvalidRequest(f"ttl_seconds must be above 0 and finite, or None for ever, not {self.ttl_seconds}")
        if self.on_duplicate not in ("wait", "refuse"):
            raise InvalidRequest(f"on_duplicate must be wait or refuse, not {self.on_duplicate!r}")

    def build(self, tool: "RegisteredTool", services: Services) -> IdempotentCalls | None:
        try:
            self.check(tool)
        except InvalidRequest:
            if tool.tool.policies.idempotency is self:
                raise
            return None  # a default leaves alone what it does not fit
        if tool.tool.read_only and tool.tool.policies.idempotency is not self:
            return None
        return IdempotentCalls(
            self.key_of,
            self.owner_of,
            tool,
            services,
            ttl_seconds=self.ttl_seconds,
            persist_result=self.persist_result,
            waits=self.on_duplicate == "wait",
        )

    def check(self, tool: "RegisteredTool") -> None:
        """Raise InvalidRequest when no call of this tool could have a key."""

    def key_of(self, call: Call) -> str:
        """Empty for a call that runs without. Raises InvalidInput."""
        raise NotImplementedError

    def owner_of(self, call: Call) -> str:
        """Who alone may be given the result: another's call with the same key is a conflict. Empty for no one."""
        del call
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfFields(Options):
    key_fields: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.key_fields is None:
            return
        if not self.key_fields or isinstance(self.key_fields, str):
            raise InvalidRequest("key_fields must be several names; None stands for all arguments")
        object.__setattr__(self, "key_fields", tuple(sorted(set(self.key_fields))))

    def check(self, tool: "RegisteredTool") -> None:
        schema = tool.tool.input_schema
        if schema.get("additionalProperties") is False:
            unknown = ", ".join(sorted(set(self.key_fields or ()) - set(schema.get("properties", {}))))
            if unknown:
                raise InvalidRequest(f"key_fields of {tool.id}: it has no argument {unknown}")

    def key_of(self, call: Call) -> str:
        missing = [name for name in self.key_fields or () if name not in call.arguments]
        if missing and self.bypass_on_missing_key:
            return ""
        if missing:
            raise InvalidInput(
                f"{', '.join(missing)} must be given: by that {call.tool.id} knows whether a call was made before",
                details={"missing": missing},
            )
        chosen = call.arguments
        if self.key_fields is not None:
            chosen = {name: call.arguments[name] for name in self.key_fields}
        return self._key(call, chosen)

    def _key(self, call: Call, chosen: dict[str, JsonValue]) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency(_OfFields):
    """A call is the same when tool, tenant, user, session and arguments are, or of these only `key_fields`.

    The same `key_fields` with other arguments besides are IdempotencyConflict. Further options as in `Options`.
    """

    kind: ClassVar[str] = "default"

    def _key(self, call: Call, chosen: dict[str, JsonValue]) -> str:
        caller = call.context.caller
        return digest(self.kind, call.tool.id, caller.tenant_id, caller.user_id, caller.session_id, chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldIdempotency(_OfFields):
    """A call is the same when tool, tenant and `key_fields` (default: all arguments) are, whoever makes it.

    It is made once for the whole tenant, and only the user who made it is given its result: for another one, as with
    other arguments, it is IdempotencyConflict. Further options as in `Options`.
    """

    kind: ClassVar[str] = "field_based"

    def _key(self, call: Call, chosen: dict[str, JsonValue]) -> str:
        return digest(self.kind, call.tool.id, call.context.caller.tenant_id, chosen)

    def owner_of(self, call: Call) -> str:
        return call.context.caller.user_id


@dataclass(frozen=True, slots=True, kw_only=True)
class HashIdempotency(_OfFields):
    """As `Idempotency`, with a digest of your choice, and with user and session among the parts or not.

    With `include_user=False` users of one tenant are given each other's results. `algorithm` is one of hashlib's with a
    fixed length; md5 and sha1 will do where nobody makes up arguments in order to collide. Further options as in
    `Options`.
    """

    kind: ClassVar[str] = "hash_based"

    algorithm: str = "sha256"
    include_user: bool = True
    include_session: bool = True

    def __post_init__(self) -> None:
        _OfFields.__post_init__(self)
        try:
            length = hashlib.new(self.algorithm, usedforsecurity=False).digest_size
        except ValueError as exc:
            known = ", ".join(sorted(hashlib.algorithms_guaranteed))
            raise InvalidRequest(f"unknown algorithm {self.algorithm!r}; there are {known}") from exc
        if not length:
            raise InvalidRequest(f"{self.algorithm} has no length of its own; take another, such as sha256")

    def _key(self, call: Call, chosen: dict[str, JsonValue]) -> str:
        caller = call.context.caller
        user = caller.user_id if self.include_user else None
        session = caller.session_id if self.include_session else None
        return digest(self.kind, call.tool.id, caller.tenant_id, user, session, chosen, algorithm=self.algorithm)


@dataclass(frozen=True, slots=True)
class CustomIdempotency(Options):
    """A call is the same when tool and tenant are, and what `function(arguments, context)` gives: a text.

    Only the user who made it is given its result, as with `FieldIdempotency`. A `function` that raises, or gives no
    text, is InvalidInput; with `bypass_on_missing_key` None runs the call unprotected. It is quick, and does not wait.
    """

    kind: ClassVar[str] = "custom"

    function: Callable[[dict[str, JsonValue], ToolContext], str | None] = field(kw_only=False)

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if not callable(self.function):
            raise InvalidRequest(f"an idempotency key is made by a function, not {self.function!r}")

    def key_of(self, call: Call) -> str:
        try:
            text = self.function(copy.deepcopy(call.arguments), call.context)
        except ToolError:
            raise
        except Exception as exc:
            raise InvalidInput(f"no idempotency key of {call.tool.id} for this: {type(exc).__name__}") from exc
        if text is None and self.bypass_on_missing_key:
            return ""
        if not isinstance(text, str) or not text:
            raise InvalidInput(f"no idempotency key of {call.tool.id} for this: its function gave no text")
        return digest(self.kind, call.tool.id, call.context.caller.tenant_id, text)

    def owner_of(self, call: Call) -> str:
        return call.context.caller.user_id
