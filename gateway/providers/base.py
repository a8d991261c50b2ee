"""Where a tool comes from."""

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from gateway.base import JsonValue
from gateway.context import ToolContext


class Provider(Protocol):
    """Answers the calls to one tool. Any number of calls may be under way at once, in one event loop."""

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        """Answer one call with JSON.

        `arguments` fit the tool's input schema, have its defaults filled in, and belong to the provider. Whatever is
        raised fails this call only: a ToolError goes to the guest as it is, anything else as ToolFailed. Cancellation
        means that nobody waits for the answer any more: stop the work, and leave nothing behind.
        """
        ...

    async def health(self) -> None:
        """Return when a call could be answered now, raise what is wrong otherwise. Cheap, and without effects."""
        ...

    async def aclose(self) -> None:
        """Release what the provider holds. Idempotent."""
        ...


@runtime_checkable
class StreamingProvider(Provider, Protocol):
    """A provider whose answer comes in chunks. `call` gives the list of all of them."""

    def stream(self, arguments: dict[str, JsonValue], context: ToolContext) -> AsyncIterator[JsonValue]:
        """The chunks of one answer, JSON each, as they come. Raises as `call` does; closing it ends the work."""
        ...
