"""Bodies of HTTP requests, made from arguments."""

import base64
import binascii
import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from gateway.base import JsonValue
from gateway.errors import InvalidInput
from gateway.providers.http.template import Styled, Template, as_text, query_pairs, query_parts, several

_MISSING: Any = object()


@runtime_checkable
class Body(Protocol):
    """The body of a request, made from arguments."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that it uses."""
        ...

    def encode(self, arguments: Mapping[str, JsonValue]) -> tuple[str, bytes] | None:
        """Content type and content, None for no body. Raises InvalidInput."""
        ...


class Json:
    """A JSON body. `template` is any JSON. A text in it that is one placeholder becomes the argument, whatever its
    type; a field or item whose argument is not given is left out.
    """

    def __init__(self, template: JsonValue, media_type: str = "application/json") -> None:
        self.media_type = media_type
        self._template = _compiled(template)
        self.names = tuple(_names(self._template))

    def encode(self, arguments: Mapping[str, JsonValue]) -> tuple[str, bytes] | None:
        value = _filled(self._template, arguments)
        if value is _MISSING:
            return None
        return self.media_type, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Form:
    """An HTML form, url-encoded: fields by name, each a template; lists are repeated fields."""

    def __init__(self, fields: Mapping[str, str | Styled]) -> None:
        self._fields = query_parts(fields)
        self.names = tuple(name for part in self._fields for name in part.template.names)

    def encode(self, arguments: Mapping[str, JsonValue]) -> tuple[str, bytes] | None:
        pairs = query_pairs(self._fields, arguments)
        return ("application/x-www-form-urlencoded", "&".join(pairs).encode()) if pairs else None


class Text:
    """Text of any media type, UTF-8."""

    def __init__(self, template: str, media_type: str = "text/plain; charset=utf-8") -> None:
        self.media_type = media_type
        self._template = Template(template)
        self.names = self._template.names

    def encode(self, arguments: Mapping[str, JsonValue]) -> tuple[str, bytes] | None:
        text = self._template.filled(arguments)
        return None if text is None else (self.media_type, text.encode())


class Binary:
    """Bytes; the argument has them in base64."""

    def __init__(self, name: str, media_type: str = "application/octet-stream") -> None:
        self.media_type = media_type
        self._name = name
        self.names = (name,)

    def encode(self, arguments: Mapping[str, JsonValue]) -> tuple[str, bytes] | None:
        value = arguments.get(self._name)
        return None if value is None else (self.media_type, _from_base64(self._name, value))


class Multipart:
    """A form with files: `fields` are templates, `files` name arguments that have base64. A list makes several parts of
    one name; an object becomes JSON.
    """

    def __init__(self, fields: Mapping[str, str], files: Mapping[str, str]) -> None:
        self._fields = {key: Template(text) for key, text in fields.items()}
        self._files = dict(files)
        self.names = (*(name for template in self._fields.values() for name in template.names), *files.values())

    def encode(self, arguments: Mapping[str, JsonValue]) -> tuple[str, bytes] | None:
        parts = [*self._field_parts(arguments), *self._file_parts(arguments)]
        if not parts:
            return None
        boundary = secrets.token_hex(16)  # random, so no value can contain it
        mark = f"--{boundary}".encode()
        content = b"".join(mark + b"\r\n" + part for part in parts) + mark + b"--\r\n"
        return f"multipart/form-data; boundary={boundary}", content

    def _field_parts(self, arguments: Mapping[str, JsonValue]) -> Iterator[bytes]:
        for key, template in self._fields.items():
            for each in several(template.value(arguments)):
                if isinstance(each, dict | list):
                    yield _part(key, "", json.dumps(each, ensure_ascii=False).encode())
                elif each is not None:
                    yield _part(key, "", as_text(key, each).encode())

    def _file_parts(self, arguments: Mapping[str, JsonValue]) -> Iterator[bytes]:
        for key, name in self._files.items():
            more = f'; filename="{_quoted(key)}"\r\nContent-Type: application/octet-stream'
            for each in several(arguments.get(name)):
                if each is not None:
                    yield _part(key, more, _from_base64(name, each))


def _compiled(template: JsonValue) -> Any:
    if isinstance(template, Mapping):
        return {key: _compiled(value) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [_compiled(value) for value in template]
    return Template(template) if isinstance(template, str) else template


def _names(compiled: Any) -> Iterator[str]:
    if isinstance(compiled, Template):
        yield from compiled.names
    elif isinstance(compiled, dict | list):
        for value in compiled.values() if isinstance(compiled, dict) else compiled:
            yield from _names(value)


def _filled(compiled: Any, arguments: Mapping[str, JsonValue]) -> JsonValue:
    if isinstance(compiled, Template):
        if compiled.only is not None:
            return arguments.get(compiled.only, _MISSING)
        text = compiled.filled(arguments)
        return _MISSING if text is None else text
    if isinstance(compiled, dict):
        filled = ((key, _filled(value, arguments)) for key, value in compiled.items())
        return {key: value for key, value in filled if value is not _MISSING}
    if isinstance(compiled, list):
        return [value for value in (_filled(each, arguments) for each in compiled) if value is not _MISSING]
    return compiled


def _part(key: str, more: str, content: bytes) -> bytes:
    head = f'Content-Disposition: form-data; name="{_quoted(key)}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def _quoted(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _from_base64(name: str, value: JsonValue) -> bytes:
    try:
        return base64.b64decode(as_text(name, value), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInput(f"{name} must be bytes in base64: {exc}") from None
