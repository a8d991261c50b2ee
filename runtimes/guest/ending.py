"""An ending as the fields of the stream's finished frame."""

from dataclasses import asdict
from typing import Any, assert_never

from runtimes.guest.outcome import Completed, Ending, Exited, Raised, TooLarge


def finished(ending: Ending) -> tuple[dict[str, Any], bytes]:
    """The frame's small fields, `kind` by name, and the value's JSON."""
    match ending:
        case Completed(value, is_repr):
            return {"kind": "completed", "value_is_repr": is_repr}, value
        case Raised(fault):
            return {"kind": "raised", "error": asdict(fault)}, b""
        case Exited(code):
            return {"kind": "exited", "exit_code": code}, b""
        case TooLarge():
            return {"kind": "too_large"}, b""
        case _:
            assert_never(ending)
