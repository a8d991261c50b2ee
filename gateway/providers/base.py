"""Where a tool comes from."""

from typing import Protocol

from gateway.base import JsonValue


class Provider(Protocol):
    """Answers the calls to one tool. Any number of calls may be under way at once, in one event loop."""

    async def call(self, arguments: dict[str, JsonValue]) -> JsonValue:
        """Answer one call with JSON.

        `arguments` fit the tool's input schema, have its defaults filled in, and belong to the provider. Whatever is
        raised fails this call only: a ToolError goes to the guest as it is, anything else as ToolFailed. Cancellation
        means that nobody waits for the answer any more.
        """
        ...

    async def aclose(self) -> None:
        """Release what the provider holds. Idempotent."""
        ...
