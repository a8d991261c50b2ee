"""Arguments that do not fit, corrected by whoever the host asks: a model, as a rule."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gateway.base import JsonValue
from gateway.errors import InvalidInput

MAX_CORRECTIONS = 2
"""How often new arguments are asked for in one call."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """Arguments that a tool does not take, and why: `error.details["errors"]` has each flaw with its path."""

    tool_id: str
    arguments: Mapping[str, JsonValue]
    error: InvalidInput
    round: int
    """1 for the first correction of a call."""


Correct: TypeAlias = Callable[[Misfit], Awaitable[Mapping[str, JsonValue] | None]]
"""New arguments in place of those that do not fit; None to give up. What it raises ends the call."""


async def run_corrected(
    run: Callable[[Mapping[str, JsonValue]], Awaitable[JsonValue]],
    tool_id: str,
    arguments: Mapping[str, JsonValue],
    correct: Correct,
) -> JsonValue:
    """What `run` gives for these arguments, or for those that they were corrected to. Raises what it raises last."""
    for number in range(1, MAX_CORRECTIONS + 1):
        try:
            return await run(arguments)
        except InvalidInput as misfit:
            corrected = await correct(Misfit(tool_id, arguments, misfit, number))
            if corrected is None:
                raise
            arguments = corrected
    return await run(arguments)
