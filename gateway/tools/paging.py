"""Lists in pages: opaque cursors that say where the next page begins, and that nobody else can make."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.base import JsonValue
from gateway.errors import InvalidCursor

Item = TypeVar("Item")

MAX_CURSOR = 4096
"""A longer text is no cursor, in characters."""

_SIGNATURE_BYTES = 16
_KEY = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list. `cursor` leads to the ones after them, None when there are none."""

    items: tuple[Item, ...]
    cursor: str | None


def cursor_after(place: JsonValue, list_name: str, filters: JsonValue) -> str:
    """A cursor for the items after `place`, the sort key of the last item that was given out.

    A key and no offset: what is added and removed elsewhere in the list does not move it. It can be read by whoever
    gets it, so `place` must hold nothing but what its page showed. It is good in this process only.
    """
    payload = json.dumps(place).encode()
    return base64.urlsafe_b64encode(_signature(payload, list_name, filters) + payload).decode()


def place_of(cursor: str, list_name: str, filters: JsonValue) -> JsonValue:
    """What `cursor_after` was given. Raises InvalidCursor unless it was, for this list and with these filters."""
    try:
        data = base64.b64decode(cursor[: MAX_CURSOR + 1], altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    signature, payload = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(payload, list_name, filters)):
        raise InvalidCursor("is not one that this list gave out for the same filters")
    return json.loads(payload)


def _signature(payload: bytes, list_name: str, filters: JsonValue) -> bytes:
    # JSON has no NUL in it, so nothing can be moved from one part into the other.
    signed = b"\0".join((json.dumps([list_name, filters]).encode(), payload))
    return hashlib.blake2b(signed, key=_KEY, digest_size=_SIGNATURE_BYTES).digest()
