"""What the command `tool` can be told."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from runtimes.guest.languages.command_line import (
    STDIN,
    Misuse,
    json_of,
    read_options,
    strict_json,
    tool_arguments,
)

USAGE = """\
usage: tool [-r | --stream] [--timeout SECONDS] NAMESPACE:NAME [KEY=TEXT | KEY:=JSON]...
       tool [-r | --stream] [--timeout SECONDS] NAMESPACE:NAME JSON-OBJECT
       tool --chain STEPS [--stream] [--timeout SECONDS]
       tool --parallel CALLS [--timeout SECONDS] [--max-concurrent N]
       tool --list [WORD]... [--namespace NAME] [--tag TAG]...
       tool --search [WORD]... [--namespace NAME] [--tag TAG]... [--limit N]
       tool --describe ID | --examples ID [--limit N] | --namespaces
Calls a tool and prints its result as JSON; with -r, a text as it is; with --stream, each event on a line as it comes.
STEPS and CALLS are arrays of {"tool_id": ID, "arguments": {...}, "timeout_seconds": N}; steps may also have "mapping",
"use_previous" and "stop_on_error". In place of any JSON but that of KEY:=JSON, - reads standard input.
Exits with 1 if a call fails, or a step that stops its chain; what came of it all is printed nevertheless.
"""

_OPTIONS: Mapping[str, str | None] = {
    "-r": None,
    "--stream": None,
    "--timeout": "SECONDS",
    "--chain": "STEPS",
    "--parallel": "CALLS",
    "--max-concurrent": "N",
    "--list": None,
    "--search": None,
    "--namespace": "NAME",
    "--tag": "TAG",
    "--limit": "N",
    "--describe": "ID",
    "--examples": "ID",
    "--namespaces": None,
    "--help": None,
}
_BESIDE: Mapping[str, frozenset[str]] = {
    "": frozenset({"-r", "--timeout"}),
    "--stream": frozenset({"--timeout"}),
    "--chain": frozenset({"--stream", "--timeout"}),
    "--parallel": frozenset({"--timeout", "--max-concurrent"}),
    "--list": frozenset({"--namespace", "--tag"}),
    "--search": frozenset({"--namespace", "--tag", "--limit"}),
    "--describe": frozenset(),
    "--examples": frozenset({"--limit"}),
    "--namespaces": frozenset(),
    "--help": frozenset(),
}
"""By the option that says what to do, or none of these, the options that mean something beside it."""

_WITH_WORDS = frozenset({"", "--stream", "--list", "--search"})


class Line(NamedTuple):
    """A command line: the option that says what to do, what it was given, and the rest. All raise Misuse."""

    use: str
    given: str
    options: Mapping[str, Sequence[str]]
    words: Sequence[str]
    stdin: str

    def text(self, name: str) -> str | None:
        """What an option was given that may be there once."""
        values = self.options.get(name, ())
        if len(values) > 1:
            raise Misuse(f"{name} is given twice")
        return values[0] if values else None

    def number(self, name: str, *kinds: type) -> Any:
        """The same for a number of one of these kinds."""
        text = self.text(name)
        if text is None:
            return None
        with suppress(ValueError):
            if type(value := strict_json(text)) in kinds:
                return value
        raise Misuse(f"{name} takes a number{'' if float in kinds else ' without a point'}, not {text!r:.80}")

    @property
    def timeout_seconds(self) -> float | None:
        seconds: float | None = self.number("--timeout", int, float)
        return seconds

    def call(self) -> tuple[str, dict[str, Any]]:
        """A tool's id and arguments."""
        if not self.words:
            raise Misuse("name a tool")
        tool_id, *words = self.words
        return tool_id, tool_arguments(words, self.stdin)

    def items(self) -> list[dict[str, Any]]:
        """The steps of a chain, or the calls of a batch."""
        items = json_of(self.stdin if self.given == STDIN else self.given, self.given)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise Misuse(f"{self.use} takes a JSON array of objects, not {self.given!r:.80}")
        return items


def read_line(arguments: Sequence[str], stdin: str) -> Line:
    """Raises Misuse."""
    options, words = read_options(arguments, _OPTIONS)
    uses = [name for name in options if name in _BESIDE]
    use = min(uses, key=lambda name: name == "--stream", default="")  # a chain is streamed by it, too
    for other in options.keys() - {use} - _BESIDE[use]:
        raise Misuse(f"{other} has no meaning {f'beside {use}' if use else 'in the call of a tool'}")
    if words and use not in _WITH_WORDS:
        raise Misuse(f"{words[0][:80]!r} has no meaning beside {use}; a value with spaces goes in quotes")
    line = Line(use, "", options, words, stdin)
    return line._replace(given=line.text(use) or "")
