"""How a call comes to the gateway and its result goes back; small things that every call needs."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.base import JsonValue
from gateway.chain import Took
from gateway.context import Progress
from gateway.payload import Encoded, Malformed, NotJsonError, normalise
from gateway.secrets import Secrets
from gateway.site import current
from gateway.streaming import Feed
from gateway.tools.registry import RegisteredTool

STREAM_TOOL, STREAM_CHAIN = "stream_tool", "stream_chain"
"""Operations whose calls are read as they go on."""


class Way(NamedTuple):
    """How a call comes, and how its result goes back. `feed` is read by whoever made the call, and gets its chunks when
    it is a stream of its own; `report` takes its progress.
    """

    via: str
    site: str
    took: Took
    timeout_seconds: float | None = None
    feed: Feed | None = None
    report: Callable[[Progress], None] | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the feed is this call's alone, and not a chain's."""
        return self.via == STREAM_TOOL


def site_of(position: int | None = None) -> str:
    site = current.get()
    return f"{site}/{position}" if site and position is not None else site


def encoded_for_record(arguments: JsonValue, secrets: Secrets | None) -> Encoded:
    if isinstance(arguments, Malformed):
        arguments = {"malformed": arguments.reason}
    try:
        given = normalise(dict(arguments) if isinstance(arguments, Mapping) else arguments)
        return given if secrets is None else secrets.encoded(given)
    except NotJsonError as exc:
        return normalise({"malformed": str(exc)})


def warnings_of(tool: RegisteredTool, given: Encoded) -> tuple[str, ...]:
    return tuple(f"the argument {name!r} is deprecated" for name in tool.input.deprecated(given.value))


def shorter(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


def ends_in(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds
