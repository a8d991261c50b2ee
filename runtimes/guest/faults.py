"""What went wrong in a snippet: an exception as plain text and numbers, with a traceback that shows guest code only."""

import linecache
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

from runtimes.guest.source import FILENAME, Source, register
from runtimes.guest.text import class_name, cut, cut_middle, plain_int, safe_str

MESSAGE_BYTES = 16 * 1024
TRACEBACK_BYTES = 64 * 1024
# More frames than Python's own recursion limit; a guest can raise that limit.
_MAX_FRAMES = 2000
_MAX_PLACE = 2**31
# All of runtimes/, as the interpreter knows it: in the WASM guest no such folder exists any more.
_OURS = class_name.__code__.co_filename.removesuffix("guest/text.py")
_ASYNCIO = linecache.getline.__code__.co_filename.removesuffix("linecache.py") + "asyncio"


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception that ended a snippet. `line` and `column` count from 1 in the code as given; 0 when unknown."""

    type: str
    message: str
    line: int
    column: int
    traceback: str


def describe(error: BaseException, source: Source) -> Fault:
    """Describe what escaped from the snippet. Never raises, whatever the guest's classes do; all text is bounded."""
    register(source)  # again, because the guest may have cleared the cache
    type_name = cut(class_name(error), MESSAGE_BYTES)
    message = cut(_message(error), MESSAGE_BYTES)
    line, column = _position(error, source)
    try:
        text = _format(error)
    except BaseException:  # noqa: BLE001  # formatting runs methods of guest classes
        text = f"{_format_frames(error)}{type_name}: {message}\n"
    return Fault(type_name, message, line, column, cut_middle(text, TRACEBACK_BYTES))


def _message(error: BaseException) -> str:
    if _is_own_syntax_error(error):
        # Without the "(<snippet>, line 1)" that str() adds.
        return safe_str(_attribute(error, "msg"))
    return safe_str(error)


def _is_own_syntax_error(error: BaseException) -> bool:
    # Of the snippet itself; one that the snippet got from compiling something else is an error like any other.
    if not issubclass(type(error), SyntaxError) or _frames_of(error):
        return False
    filename = _attribute(error, "filename")
    return type(filename) is str and filename == FILENAME


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name)
    except BaseException:  # noqa: BLE001  # a guest's property
        return None


def _position(error: BaseException, source: Source) -> tuple[int, int]:
    if _is_own_syntax_error(error):
        line = plain_int(_attribute(error, "lineno"), low=0, high=_MAX_PLACE)
        column = plain_int(_attribute(error, "offset"), low=1, high=_MAX_PLACE)
        return (line, column + source.removed_indent) if line else (0, 0)
    frames = _frames_of(error)
    return _place(frames[-1], source) if frames else (0, 0)


def _place(frame: TracebackType, source: Source) -> tuple[int, int]:
    positions = frame.tb_frame.f_code.co_positions()
    line, _, offset, _ = next(islice(positions, frame.tb_lasti // 2, None), (None, None, None, None))
    if line is None or offset is None:
        return frame.tb_lineno or 0, 0
    # The compiler counts bytes.
    before = source.line(line).encode("utf-8", "replace")[:offset].decode("utf-8", "replace")
    return line, len(before) + 1 + source.removed_indent


def _frames_of(error: BaseException) -> list[TracebackType]:
    """The snippet's own frames, outermost first."""
    return [step for step in _steps(error) if step.tb_frame.f_code.co_filename == FILENAME]


def _steps(error: BaseException) -> Iterator[TracebackType]:
    # Asked of BaseException, because the guest's class can redefine the attribute.
    step = BaseException.__dict__["__traceback__"].__get__(error)
    while step is not None:
        yield step
        step = step.tb_next


def _format(error: BaseException) -> str:
    step = next(_steps(error), None)
    deep = sum(1 for _ in islice(_steps(error), _MAX_FRAMES + 1)) > _MAX_FRAMES
    limit = -_MAX_FRAMES if deep else None
    story = traceback.TracebackException(type(error), error, step, limit=limit, compact=True)
    for part in _parts(story):
        part.stack[:] = _guest_frames(part.stack)
    return "".join(cut(chunk, MESSAGE_BYTES) for chunk in story.format())


def _parts(story: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    # Exceptions form a graph: causes, contexts, members of groups. Python has already cut its cycles.
    pending = [story]
    while pending:
        part = pending.pop()
        yield part
        related = (part.__cause__, part.__context__, *(part.exceptions or ()))
        pending.extend(item for item in related if item is not None)


def _guest_frames(frames: traceback.StackSummary) -> list[traceback.FrameSummary]:
    start = next((index for index, frame in enumerate(frames) if frame.filename == FILENAME), None)
    if start is None:
        # Nothing of the snippet, as in an exception that a library caught and chained: only what leads in is ours.
        start = next((index for index, frame in enumerate(frames) if not _is_plumbing(frame)), len(frames))
    return [frame for frame in frames[start:] if not _is_ours(frame)]


def _is_plumbing(frame: traceback.FrameSummary) -> bool:
    return _is_ours(frame) or frame.filename.startswith(_ASYNCIO)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_OURS)


def _format_frames(error: BaseException) -> str:
    # Where the classes of the guest cannot be trusted with more, the frames still can.
    try:
        frames = traceback.StackSummary.extract(traceback.walk_tb(next(_steps(error), None)), limit=-_MAX_FRAMES)
        kept = traceback.StackSummary.from_list(_guest_frames(frames))
        return "".join(["Traceback (most recent call last):\n", *kept.format()]) if kept else ""
    except BaseException:  # noqa: BLE001  # no memory left, say
        return ""
