"""How a provider says that a call failed before anything of it was sent."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import ToolUnavailable


@contextmanager
def unsent() -> Iterator[None]:
    """Within, nothing of the call is sent yet: a ToolUnavailable says so, and so the call can be made again safely."""
    try:
        yield
    except ToolUnavailable as error:
        error.details["sent"] = False
        raise
