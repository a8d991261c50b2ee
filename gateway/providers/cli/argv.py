"""Templates of command lines: where the arguments of a call go, and what they can never become.

| in an item | what it stands for |
| --- | --- |
| `{name}` | the argument's value, inside this one item whatever it contains |
| `{name?}` | the same; the item, or the group it is in, is left out when the argument is absent or null |
| `{name...}` alone | one item for each element of a list, none when it is absent |
| `{name?--flag}` alone | `--flag` when the argument is true |
| `{{` and `}}` | braces |

A group is a list of items inside the list, which are left out together.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gateway.base import JsonValue
from gateway.errors import InvalidInput, InvalidRequest

Item: TypeAlias = str | Sequence[str]

_BRACES = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")
_SLOT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)(?:(\.\.\.)|(\?)(.*))?\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Slot:
    name: str
    optional: bool = False
    spread: bool = False
    flag: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        if self.flag:
            return {"type": "boolean"}
        return {"type": "array", "items": {"type": "string"}} if self.spread else {"type": "string"}

    @property
    def required(self) -> bool:
        return not (self.optional or self.spread)


_Part: TypeAlias = str | _Slot
_Parts: TypeAlias = tuple[_Part, ...]


class TextTemplate:
    """A text with placeholders, for the standard input; values other than text are written as JSON."""

    def __init__(self, template: str) -> None:
        self._parts = _parsed(template)
        self.slots = tuple(part for part in self._parts if isinstance(part, _Slot))
        if any(slot.spread or slot.flag for slot in self.slots):
            raise InvalidRequest(f"stdin takes {{name}} and {{name?}} only, not {template!r}")

    def filled(self, arguments: Mapping[str, JsonValue]) -> str:
        return "".join(part if isinstance(part, str) else _json_text(arguments.get(part.name)) for part in self._parts)


class ArgvTemplate:
    """A command line. Its program is looked up once, here. Raises InvalidRequest."""

    def __init__(self, items: Sequence[Item]) -> None:
        if isinstance(items, str) or not items or not isinstance(items[0], str):
            raise InvalidRequest(f"argv must be a list that begins with a program, not {items!r}; there is no shell")
        self.program = _found(items[0])
        self._groups = [tuple(map(_parsed, (item,) if isinstance(item, str) else item)) for item in items[1:]]
        for parts in (parts for group in self._groups for parts in group):
            if len(parts) > 1 and any(isinstance(part, _Slot) and (part.spread or part.flag) for part in parts):
                raise InvalidRequest(
                    "{name...} and {name?--flag} stand alone in their item; give each an item of its own"
                )
        self.slots = tuple(
            part for group in self._groups for parts in group for part in parts if isinstance(part, _Slot)
        )

    def filled(self, arguments: Mapping[str, JsonValue]) -> list[str]:
        """The command line of one call. Raises InvalidInput for a value that could become an option, or has a NUL."""
        argv = [self.program]
        options = True
        for group in self._groups:
            if any(_is_absent(part, arguments) for parts in group for part in parts):
                continue
            for parts in group:
                argv += _items(parts, arguments, options=options)
                options = options and parts != ("--",)
        return argv


def input_schema(slots: Sequence[_Slot]) -> dict[str, Any]:
    """What the placeholders ask for: texts, lists of texts and flags, and nothing else."""
    properties = {slot.name: slot.schema for slot in slots}
    required = sorted({slot.name for slot in slots if slot.required})
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def check_schema(schema: Mapping[str, Any], slots: Sequence[_Slot]) -> None:
    """Raise InvalidRequest when placeholders and the schema's properties are not the same, or one may be missing."""
    properties = schema.get("properties", {})
    names = {slot.name for slot in slots}
    if unknown := sorted(names - properties.keys()):
        raise InvalidRequest(f"the input schema has no property {', '.join(unknown)}, which the template names")
    if unused := sorted(properties.keys() - names):
        raise InvalidRequest(f"the template does not use {', '.join(unused)} of the input schema; add or remove it")
    for slot in slots:
        if slot.required and slot.name not in schema.get("required", ()) and "default" not in properties[slot.name]:
            raise InvalidRequest(f"{slot.name} may be missing: make it required, or write {{{slot.name}?}}")


def _parsed(text: str) -> _Parts:
    parts: list[_Part] = []
    end = 0
    for found in _BRACES.finditer(text):
        parts += [text[end : found.start()], _part(found[0], text)]
        end = found.end()
    parts.append(text[end:])
    return tuple(_joined(parts))


def _part(found: str, text: str) -> _Part:
    if found in {"{{", "}}"}:
        return found[0]
    slot = _SLOT.fullmatch(found)
    if slot is None:
        raise InvalidRequest(f"{found} in {text!r} is no placeholder; write {{{{ and }}}} for braces")
    return _Slot(slot[1], optional=slot[3] is not None, spread=slot[2] is not None, flag=slot[4] or "")


def _joined(parts: Sequence[_Part]) -> Iterator[_Part]:
    """Without empty texts, and texts that touch made one; an empty template is one empty text."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text or not any(isinstance(part, _Slot) for part in parts):
        yield text


def _is_absent(part: _Part, arguments: Mapping[str, JsonValue]) -> bool:
    if isinstance(part, str) or not part.optional:
        return False
    value = arguments.get(part.name)
    return value is None or (bool(part.flag) and value is not True)


def _items(parts: _Parts, arguments: Mapping[str, JsonValue], *, options: bool) -> list[str]:
    match parts:
        case (_Slot(spread=True, name=name),):
            elements = arguments.get(name) or []
            if not isinstance(elements, list):
                raise InvalidInput(f"{name} must be a list")
            return [_checked(name, _text(name, element), begins=options) for element in elements]
        case (_Slot(flag=flag),) if flag:
            return [flag]
    texts = []
    for position, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(part)
        else:
            texts.append(
                _checked(part.name, _text(part.name, arguments.get(part.name)), begins=options and not position)
            )
    return ["".join(texts)]


def _text(name: str, value: JsonValue) -> str:
    if isinstance(value, list | dict) or value is None:
        raise InvalidInput(f"{name} must be a text, a number or a boolean to stand on a command line")
    return _json_text(value)


def _checked(name: str, text: str, *, begins: bool) -> str:
    if "\0" in text:
        raise InvalidInput(f"{name} has a NUL character, which no command line can carry")
    if begins and text.startswith("-"):
        raise InvalidInput(f"{name} must not begin with '-': the program could take it for an option")
    return text


def _json_text(value: JsonValue) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _found(program: str) -> str:
    if "\0" in program or _BRACES.search(program):
        raise InvalidRequest(f"the program must be fixed, not {program!r}: who calls must not choose it")
    found = shutil.which(program)
    if found is None:
        raise InvalidRequest(f"there is no program {program!r} that may be run; install it, or give its full path")
    return str(Path(found).absolute())
