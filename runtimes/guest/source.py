"""A snippet's text: its common indentation taken off, and known to Python's tracebacks."""

import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

FILENAME = "<snippet>"


@dataclass(frozen=True, slots=True)
class Source:
    """`text` is what gets compiled; a column in it is `removed_indent` less than in the code as it was given."""

    text: str
    removed_indent: int

    def line(self, number: int) -> str:
        """Line `number`, counted from 1, without its end; empty where there is none."""
        lines = self.text.split("\n")
        return lines[number - 1] if 0 < number <= len(lines) else ""


def read_source(code: str) -> Source:
    """Take off the indentation that all lines with text share, as `textwrap.dedent` does. Never raises."""
    # Line ends as the tokenizer reads them, so that line numbers here and there agree.
    lines = code.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    margin = _common_start([line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()])
    if margin:
        lines = [line.removeprefix(margin) if line.strip() else line[len(margin) :] for line in lines]
    return Source("\n".join(lines), len(margin))


def register(source: Source) -> None:
    """Let tracebacks, warnings and `inspect` show the snippet's lines."""
    # No modification time: linecache then never looks for the file.
    linecache.cache[FILENAME] = (len(source.text), None, _Lines(source.text), FILENAME)  # type: ignore[assignment]  # a list to its users


class _Lines(Sequence[str]):
    """The text's lines with their ends, split on first use: most snippets never show one."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _lines(self) -> list[str]:
        return [line + "\n" for line in self._text.split("\n")]

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._lines[index]

    def __len__(self) -> int:
        return len(self._lines)


def _common_start(margins: list[str]) -> str:
    # Whatever the first and the last in order share, all share.
    first, last = min(margins, default=""), max(margins, default="")
    differs = (index for index, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(differs, len(first))]
