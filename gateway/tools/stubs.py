"""A stub text of the guest's `tools`: every tool with its types, for a model to read and a type checker to use."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from textwrap import indent
from typing import Any

from gateway.tools.hints import MAX_NAME, TypeTexts, camel, fields
from gateway.tools.registry import RegisteredTool
from gateway.tools.stub_text import HEADER, OPERATIONS, RUN_TOOL, TYPES, WORDS
from gateway.tools.words import is_argument, is_name, summary

MAX_TYPES = 50
"""Most types that are declared for one tool; further objects are dict[str, Any]."""

MAX_FIELDS = 100
"""Most fields of one type, and most parameters that are explained."""

_MAX_LITERALS = 50
_MAX_COMMENT = 80
_WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b")


def stub_module(tools: Iterable[RegisteredTool]) -> str:
    """The module `tools` as a snippet sees it, in the form of a `.pyi` file: the same text for the same tools.

    Namespaces are classes; objects with named fields are TypedDicts; `aio` has the twin of everything to `await`. A
    tool whose name or arguments Python cannot spell has an overload of `run_tool` too. What a tool adds is bounded,
    however large its schemas are: 50 types of 100 fields each, descriptions of 200 characters.
    """
    return _Module(sorted(tools, key=lambda tool: tool.id)).text()


@dataclass(frozen=True, slots=True)
class _Function:
    """`parameters` and `result` as they are written. `explained` are the lines of the docstring."""

    name: str
    parameters: str
    result: str
    explained: tuple[str, ...]

    def text(self, start: str) -> str:
        """`start` is what stands before the name."""
        line = f"{start} {self.name}({self.parameters}) -> {self.result}:"
        if not self.explained or "async" in start:
            return f"{line} ..."  # the twin says it
        first, *more = self.explained
        quoted = f'"""{first}"""' if not more else "\n".join([f'"""{first}\n', *more, '"""'])
        return f"{line}\n{indent(quoted, '    ')}"


class _Module:
    def __init__(self, tools: list[RegisteredTool]) -> None:
        self._spoken: dict[str, list[_Function]] = defaultdict(list)
        self._others: list[_Function] = []
        taken = {name for tool in tools for name in _path(tool)}
        self._words = {name: f"_{name}" for name in WORDS if name in taken}
        self._declared = _Declared(self._words)
        for tool in tools:
            self._add(tool)

    def text(self) -> str:
        parts = [
            HEADER,
            "\n".join(f"from {WORDS[name]} import {name} as {alias}" for name, alias in self._words.items()),
            self._spelt(TYPES),
            *self._declared.texts,
            *self._body("def"),
            "class aio:\n" + indent("\n\n".join(self._body("async def")), "    "),
        ]
        return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"

    def _add(self, tool: RegisteredTool) -> None:
        types = _StubTypes(tool.tool.input_schema, self._declared, self._words)
        place = camel(tool.tool.id.namespace) + camel(tool.tool.id.name)
        parameters = types.parameters(tool.tool.input_schema, place)
        result, explained = self._result(tool, place), _explained(tool)
        path = _path(tool)
        if is_name(tool.tool.id.namespace):
            self._spoken.setdefault(tool.tool.id.namespace, [])  # whatever its tools are called, getattr finds them
        if path:
            passed = _listed(parameters) if parameters is not None else f"**arguments: {self._spelt('Any')}"
            self._spoken[".".join(path[:-1])].append(_Function(path[-1], passed, result, explained))
        if not path or parameters is None:
            arguments = types.of(tool.tool.input_schema, place + "Arguments")
            optional = "" if fields(tool.tool.input_schema)[1] else " | None = None"
            given = f"tool_id: {self._spelt('Literal')}[{tool.address!r}], arguments: {arguments}{optional}"
            self._others.append(_Function("run_tool", given, result, explained))

    def _result(self, tool: RegisteredTool, place: str) -> str:
        schema = tool.tool.output_schema
        if schema is None:
            return self._spelt("Any")
        return _StubTypes(schema, self._declared, self._words).of(schema, place + "Result")

    def _body(self, start: str) -> Iterator[str]:
        """What the module holds, with `def`; what its class `aio` holds, with `async def`."""
        outer = "" if start == "def" else f"@{self._spelt('staticmethod')}\n"
        overload = f"@{self._spelt('overload')}\n" if self._others else ""
        for function in self._others:
            yield overload + outer + function.text(start)
        yield overload + outer + self._operation(RUN_TOOL, start)
        for text in OPERATIONS:
            yield outer + self._operation(text, start)
        for function in self._spoken[""]:
            yield outer + function.text(start)
        static = f"@{self._spelt('staticmethod')}\n"
        for namespace in sorted(self._spoken.keys() - {""}):
            body = "\n\n".join(static + function.text(start) for function in self._spoken[namespace]) or "..."
            yield f"class {namespace}:\n{indent(body, '    ')}"

    def _operation(self, text: str, start: str) -> str:
        text = text.strip("\n")
        if start != "def":
            # The twin says what it does; what streams is not awaited, but iterated.
            text = text[: text.index('\n    """')] + " ..."
            streams = "Generator[_Event, None, None]" in text
            text = text.replace("Generator[_Event, None, None]", "AsyncGenerator[_Event, None]")
            text = text if streams else f"async {text}"
        return self._spelt(text)

    def _spelt(self, text: str) -> str:
        """`text` with the words whose names are taken replaced by their aliases, but for its docstrings."""
        if not self._words:
            return text
        lines = (line if '"""' in line else _WORD.sub(self._alias, line) for line in text.split("\n"))
        return "\n".join(lines)

    def _alias(self, found: re.Match[str]) -> str:
        return self._words.get(found[0], found[0])


class _Declared:
    """The TypedDicts of a module. What is equal and would have the same name is declared once."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.texts: list[str] = []
        self._names: dict[str, str] = {}
        # The words and the types that are always there.
        self._used = {f"_{name}" for name in WORDS} | set(re.findall(r"class (\w+)", TYPES)) | set(aliases.values())

    def known(self, key: str) -> str | None:
        return self._names.get(key)

    def name(self, key: str, wanted: str) -> str:
        """A name of its own for the type of this key."""
        found, number = f"_{wanted or 'Object'}", 1
        while found in self._used:
            number += 1
            found = f"_{wanted or 'Object'}{number}"
        self._used.add(found)
        self._names[key] = found
        return found


class _StubTypes(TypeTexts):
    """Types that a checker understands: objects with named fields are TypedDicts, long enumerations their type."""

    max_depth = 6

    def __init__(self, root: Mapping[str, Any], declared: _Declared, aliases: Mapping[str, str]) -> None:
        super().__init__(root)
        self._declared = declared
        self._aliases = aliases
        self._waiting: list[tuple[str, Mapping[str, Any], str]] = []
        self._count = 0

    def of(self, schema: object, place: str = "") -> str:
        found = super().of(schema, place)
        # One after another, not within each other: schemas nest deeper than Python's stack.
        while self._waiting:
            name, below, within = self._waiting.pop(0)
            self._declared.texts.append(self._typed_dict(name, below, within))
        return found

    def word(self, name: str) -> str:
        return self._aliases.get(name, name)

    def _object(self, schema: Mapping[str, Any], place: str, depth: int) -> str:
        if not fields(schema)[0]:
            return super()._object(schema, place, depth)
        key = self._key(schema, place)
        known = self._declared.known(key)
        if known is not None:
            return known
        if self._count == MAX_TYPES:
            return super()._object({}, place, depth)
        self._count += 1
        name = self._declared.name(key, place)
        self._waiting.append((name, schema, place))
        return name

    def _listed(self, shown: list[str], values: list[Any]) -> str:
        return f"{self.word('Literal')}[{', '.join(shown)}]" if len(shown) <= _MAX_LITERALS else self._wider(values)

    def _typed_dict(self, name: str, schema: Mapping[str, Any], place: str) -> str:
        properties, required = fields(schema)
        shown = [field for field in properties if len(field) <= MAX_NAME][:MAX_FIELDS]
        more = schema.get("additionalProperties", False) if len(shown) == len(properties) else True
        extra = "" if more is False else f", extra_items={super().of(more, place)}"
        typed = {
            field: self._field(properties[field], place + camel(field), required=field in required) for field in shown
        }
        if not all(map(_is_field, typed)):
            listed = ", ".join(f"{field!r}: {text}" for field, text in typed.items())
            return f'{name} = {self.word("TypedDict")}("{name}", {{{listed}}}{extra})'
        lines = [f"    {field}: {text}{_comment(properties[field])}" for field, text in typed.items()]
        return "\n".join([f"class {name}({self.word('TypedDict')}{extra}):", *lines])

    def _field(self, schema: object, place: str, *, required: bool) -> str:
        text = super().of(schema, place)
        return text if required else f"{self.word('NotRequired')}[{text}]"

    def _key(self, schema: Mapping[str, Any], place: str) -> str:
        """The same for schemas that are equal with all they refer to."""
        text = json.dumps(schema, sort_keys=True, default=str)
        refers = '"$ref"' in text
        local = refers and set(re.findall(r'"\$ref": "#/([^/"]*)', text)) <= {"$defs", "definitions"}
        shared = (
            [self._root.get("$defs"), self._root.get("definitions")] if local else id(self._root) if refers else None
        )
        return json.dumps([place, text, shared], sort_keys=True, default=str)


def _listed(parameters: list[str]) -> str:
    return ", ".join(parameters if not parameters or parameters[0].startswith("**") else ["*", *parameters])


def _is_field(name: str) -> bool:
    # In the class body it would stand in front of a word or a type of the same name.
    return is_argument(name) and name not in WORDS and not name.startswith("_")


def _path(tool: RegisteredTool) -> list[str]:
    """The attributes of `tools` that lead to it; empty when Python cannot spell them."""
    names = tool.address.split(":")
    return names if len(names) <= 2 and all(map(is_name, names)) else []


def _explained(tool: RegisteredTool) -> tuple[str, ...]:
    properties = fields(tool.tool.input_schema)[0]
    told = {name: _plain(_description(schema), 100) for name, schema in list(properties.items())[:MAX_FIELDS]}
    lines = [f"{_plain(name, 60)}: {text}" for name, text in told.items() if text]
    first = _plain(tool.tool.description, 200)
    return (first, *lines) if first or lines else ()


def _comment(schema: object) -> str:
    text = _line(_description(schema), _MAX_COMMENT)
    return f"  # {text}" if text else ""


def _description(schema: object) -> str:
    text = schema.get("description") if isinstance(schema, Mapping) else None
    return text if isinstance(text, str) else ""


def _plain(text: str, limit: int) -> str:
    """A text that ends no docstring and escapes nothing."""
    text = _line(text, limit).replace("\\", "\\\\").replace('"""', "'''")
    return f"{text} " if text.endswith('"') else text


def _line(text: str, limit: int) -> str:
    # Cut first: a description may be megabytes.
    return summary("".join(char for char in text[: 20 * limit] if char.isprintable() or char.isspace()), limit)
