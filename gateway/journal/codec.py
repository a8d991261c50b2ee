"""Records as canonical JSON (RFC 8785) and back, by the annotations of their fields.

Each field writes its own part of the text, in the order of the names: what no canonical encoder need sort, and two to
four times as fast as making a tree for one.

A field at its default is left out, so a later version can add fields without changing what earlier records say; a
default never changes. A value of free form is a text that holds its JSON: RFC 8785 would sort its keys and make 1.0
a 1, and knows no large integers. A float is a text too: spelling it as JavaScript does takes longer than all the rest.
A blob is {sha256, bytes} with its `text`, or `base64`, when it is small. A mapping of blobs is a list, so that every
key is a name of ours.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_type_hints

from gateway.base import JsonValue
from gateway.journal.records import INLINE_BYTES, RECORDS, Blob, CallStatus, Mode, Record
from gateway.payload import encode_as_given


class MalformedRecord(ValueError):
    """Not the content of a record; the message says why."""


class Content(NamedTuple):
    """A record as it is kept, and the blobs beside it by their digest."""

    data: bytes
    blobs: Mapping[str, bytes]


class _Field(NamedTuple):
    name: str
    key: str
    default: Any
    write: Callable[[Any, dict[str, bytes]], str]
    read: Callable[[Any], Any]


def content_of(record: Record) -> Content:
    """What is kept of this record. Raises UnicodeEncodeError for texts that UTF-8 cannot carry."""
    blobs: dict[str, bytes] = {}
    parts = []
    for name, key, default, write, _ in _FIELDS[record.kind]:
        value = getattr(record, name)
        if value is not default and (default is dataclasses.MISSING or value != default):
            parts.append(key + write(value, blobs))
    return Content(f"{{{','.join(parts)}}}".encode(), blobs)


def record_of(data: bytes) -> Record:
    """The record with this content. Raises MalformedRecord."""
    try:
        found = json.loads(data)
        kind = found.pop("kind")
        read = _READERS[kind]
        return RECORDS[kind](**{name: read[name](value) for name, value in found.items()})
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise MalformedRecord(f"{type(error).__name__}: {error}") from error


def references(value: Any) -> "list[str]":
    """Digests of the blobs that a record's content, decoded, holds by digest only."""
    if isinstance(value, list):
        return [digest for item in value for digest in references(item)]
    if not isinstance(value, dict):
        return []
    if "sha256" in value:
        return [] if "text" in value or "base64" in value else [value["sha256"]]
    return [digest for item in value.values() if isinstance(item, dict | list) for digest in references(item)]


def _fields_of(kind: type[Record]) -> tuple[_Field, ...]:
    """In the order of RFC 8785, which is that of the names."""
    hints = get_type_hints(kind)
    found = [_field(field, hints[field.name]) for field in dataclasses.fields(kind)]
    return tuple(sorted((*found, _Field("kind", '"kind":', dataclasses.MISSING, _write_text, str))))


def _field(field: "dataclasses.Field[Any]", hint: Any) -> _Field:
    default = field.default_factory() if callable(field.default_factory) else field.default
    write, read = _CODECS[hint]
    return _Field(field.name, f'"{field.name}":', default, write, read)


_quoted = json.JSONEncoder(ensure_ascii=False).encode


def _write_text(text: str, _blobs: dict[str, bytes]) -> str:
    return _quoted(text)


def _write_json(value: JsonValue, _blobs: dict[str, bytes]) -> str:
    return _quoted(encode_as_given(value).decode())


def _write_texts(texts: Iterable[str], _blobs: dict[str, bytes]) -> str:
    return f"[{','.join(map(_quoted, texts))}]"


def _write_blob(blob: Blob, blobs: dict[str, bytes]) -> str:
    bare = f'"bytes":{blob.size_bytes},"sha256":{_quoted(blob.sha256)}'
    if blob.data is None:
        return f"{{{bare}}}"
    if blob.size_bytes > INLINE_BYTES:
        blobs[blob.sha256] = blob.data
        return f"{{{bare}}}"
    try:
        return f'{{{bare},"text":{_quoted(blob.data.decode())}}}'
    except UnicodeDecodeError:
        return f'{{"base64":"{base64.b64encode(blob.data).decode()}",{bare}}}'


def _read_blob(found: dict[str, Any]) -> Blob:
    data = None
    if "text" in found:
        data = found["text"].encode()
    elif "base64" in found:
        data = base64.b64decode(found["base64"], validate=True)
    return Blob(found["sha256"], found["bytes"], data)


def _write_blobs(parts: tuple[Blob, ...], blobs: dict[str, bytes]) -> str:
    return f"[{','.join(_write_blob(part, blobs) for part in parts)}]"


def _write_named(named: Mapping[str, Blob], blobs: dict[str, bytes]) -> str:
    parts = (f'{{"blob":{_write_blob(blob, blobs)},"name":{_quoted(name)}}}' for name, blob in named.items())
    return f"[{','.join(parts)}]"


def _write_time(at: datetime, _blobs: dict[str, bytes]) -> str:
    return f'"{(at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat()}"'


def _optional(codec: tuple[Any, Any]) -> tuple[Any, Any]:
    """None is the default of every optional field with one; without, it is written as null."""
    write, read = codec
    return (
        lambda value, blobs: "null" if value is None else write(value, blobs),
        lambda value: None if value is None else read(value),
    )


_INT = (lambda number, _blobs: int.__repr__(number), int)
_JSON = (_write_json, json.loads)
_BLOB = (_write_blob, _read_blob)
_BLOBS = (_write_blobs, lambda found: tuple(map(_read_blob, found)))
_TEXTS = (_write_texts, tuple)

_TIME = (_write_time, datetime.fromisoformat)

_CODECS: dict[Any, tuple[Callable[[Any, dict[str, bytes]], str], Callable[[Any], Any]]] = {
    str: (_write_text, str),
    int: _INT,
    bool: (lambda value, _blobs: "true" if value else "false", bool),
    float: (lambda number, _blobs: f'"{number!r}"', float),
    int | None: _optional(_INT),
    datetime: _TIME,
    datetime | None: _optional(_TIME),
    CallStatus: (_write_text, CallStatus),
    Mode: (_write_text, Mode),
    tuple[str, ...]: _TEXTS,
    tuple[str, ...] | None: _optional(_TEXTS),
    Any: _JSON,
    Mapping[str, Any]: _JSON,
    Mapping[str, Any] | None: _optional(_JSON),
    Blob: _BLOB,
    Blob | None: _optional(_BLOB),
    tuple[Blob, ...] | None: _optional(_BLOBS),
    Mapping[str, Blob]: (_write_named, lambda found: {item["name"]: _read_blob(item["blob"]) for item in found}),
}
"""How a field of each type is written and read; a record with a field of another type cannot be kept."""

_FIELDS = {kind: _fields_of(record) for kind, record in RECORDS.items()}
_READERS = {kind: {field.name: field.read for field in fields} for kind, fields in _FIELDS.items()}
