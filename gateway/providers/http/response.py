"""From an HTTP response to a result, or to the error that says what to do. Imported only when an API is made."""

import base64
import codecs
import contextlib
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpcore2
import httpx2

from gateway.base import JsonValue
from gateway.errors import InvalidInput, InvalidOutput, PayloadTooLarge, ToolError, ToolFailed, ToolUnavailable
from gateway.payload import NotJsonError, decode, printable
from gateway.providers.http.transport import SECRETS
from gateway.providers.unsent import unsent

MAX_ERROR_BYTES = 8 << 10
"""What an error keeps of the body that came with it."""

MIN_SECRET_BYTES = 6
"""A shorter secret is not looked for in answers: masking it would spoil what merely looks like it."""

_RETRY = frozenset({408, 425, 429})
_TEXT = frozenset(
    "application/" + kind
    for kind in ("graphql", "javascript", "toml", "x-ndjson", "x-www-form-urlencoded", "x-yaml", "xml", "yaml")
)
_CHARSETS = ("ascii", "big5", "cp125", "euc_", "gb", "iso8859", "koi8", "shift_jis", "utf-16", "utf-32", "utf-8")
"""Beginnings of the codecs that a server may name; Python has others that are slow, or no text."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tool takes of a response. `headers` None: the body alone is the result."""

    what: str
    max_bytes: int
    headers: tuple[str, ...] | None


async def result_of(response: httpx2.Response, wanted: Wanted) -> JsonValue:
    """The result of a 2xx response. Raises ToolUnavailable, ToolFailed, PayloadTooLarge, InvalidOutput."""
    if not response.is_success:
        raise await _refusal(response, wanted)
    _check_declared(response, wanted)
    data, is_whole = await _read(response, wanted.max_bytes)
    if not is_whole:
        raise PayloadTooLarge(f"the answer of {wanted.what}", len(data), wanted.max_bytes)
    body = _body(response, data, wanted.what)
    if wanted.headers is None:
        return body
    return {"status": response.status_code, "headers": _headers(response, wanted.headers), "body": body}


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what an HTTP client raises as one of ours."""
    try:
        yield
    except httpcore2.PoolTimeout as exc:
        raise ToolUnavailable(what, "all of its connections are busy") from exc
    except httpcore2.TimeoutException as exc:
        raise ToolUnavailable(what, "it did not answer in time") from exc
    except httpcore2.NetworkError as exc:
        raise _unreached(what, exc) from exc
    except (httpcore2.RemoteProtocolError, httpx2.RemoteProtocolError) as exc:
        raise _broken(what, exc) from exc
    except httpx2.DecodingError as exc:
        raise InvalidOutput(f"{what} sent a compressed answer that cannot be read: {exc}") from exc
    except (httpcore2.LocalProtocolError, httpx2.InvalidURL) as exc:
        raise InvalidInput(f"the arguments do not make a request that can be sent to {what}") from exc


@contextlib.contextmanager
def connecting(what: str) -> Iterator[None]:
    """Around the first request of a call: where no connection is made for it, the error says that nothing was sent."""
    try:
        yield
    except (ToolUnavailable, httpcore2.PoolTimeout, httpcore2.ConnectTimeout, httpcore2.ConnectError):
        with unsent(), translated(what):
            raise


def retry_after_seconds(value: str | None) -> float | None:
    """What a Retry-After header asks for, in seconds or as a date; None when it says nothing sensible."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        return max(0.0, round(parsedate_to_datetime(text).timestamp() - time.time(), 3))
    except (ValueError, OverflowError):
        return None


async def _refusal(response: httpx2.Response, wanted: Wanted) -> ToolError:
    status = response.status_code
    data, _ = await _read(response, MAX_ERROR_BYTES)
    details: dict[str, JsonValue] = {"status": status, "body": _shown(response, data[:MAX_ERROR_BYTES])}
    said = f"{status} {_phrase(status)}".strip()
    if status in _RETRY or status >= 500:
        waits = retry_after_seconds(response.headers.get("Retry-After"))
        error: ToolError = ToolUnavailable(wanted.what, f"it answered {said}", retry_after_seconds=waits)
        error.details |= details
        return error
    if response.has_redirect_location:
        details["location"] = _masked(response, response.headers["Location"].encode()).decode()[:2000]
        said += "; it redirects, and no further redirect is followed"
    return ToolFailed(f"{wanted.what} answered {said}", details=details)


def _check_declared(response: httpx2.Response, wanted: Wanted) -> None:
    declared = response.headers.get("Content-Length", "")
    if response.request.method != "HEAD" and declared.isdigit() and int(declared) > wanted.max_bytes:
        raise PayloadTooLarge(f"the answer of {wanted.what}", int(declared), wanted.max_bytes)


async def _read(response: httpx2.Response, at_most: int) -> tuple[bytes, bool]:
    """The body, decompressed, and whether that is all; reading ends soon after `at_most` bytes."""
    chunks, size = [], 0
    async with contextlib.aclosing(response.aiter_bytes()) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            size += len(chunk)
            if size > at_most:
                break
    return _masked(response, b"".join(chunks)), size <= at_most


def _masked(response: httpx2.Response, data: bytes) -> bytes:
    """Some servers echo what they are sent: what was sent as a secret is not for the caller."""
    secrets: tuple[bytes, ...] = response.extensions.get(SECRETS, ())
    for secret in secrets:
        if len(secret) >= MIN_SECRET_BYTES:
            data = data.replace(secret, b"***")
    return data


def _body(response: httpx2.Response, data: bytes, what: str) -> JsonValue:
    """JSON where the server says so, None for nothing, text where it is text, {base64, media_type} for other bytes."""
    if not data:
        return None
    media_type, charset = _content_type(response)
    if _is_json(media_type):
        try:
            return decode(data)
        except NotJsonError as exc:
            raise InvalidOutput(f"{what} says it sends JSON, but it is none: {exc}") from exc
    text = _text(data, charset) if _is_text(media_type) else None
    return {"base64": base64.b64encode(data).decode(), "media_type": media_type} if text is None else text


def _shown(response: httpx2.Response, data: bytes) -> JsonValue:
    """The body of an error: for reading, so never itself an error."""
    media_type, _ = _content_type(response)
    if _is_json(media_type):
        try:
            return decode(data)
        except NotJsonError:
            pass  # broken, or cut: then it is shown as text
    return printable(data.decode(errors="replace"), MAX_ERROR_BYTES)


def _headers(response: httpx2.Response, names: Iterable[str]) -> dict[str, str]:
    found = ((name.lower(), response.headers.get(name)) for name in names)
    return {name: _masked(response, value.encode()).decode() for name, value in found if value is not None}


def _content_type(response: httpx2.Response) -> tuple[str, str]:
    """Media type and charset, both lower-case; either may be empty."""
    media_type, _, parameters = response.headers.get("Content-Type", "").lower().partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return media_type.strip(), value.strip().strip("\"'")
    return media_type.strip(), ""


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def _is_text(media_type: str) -> bool:
    return not media_type or media_type.startswith("text/") or media_type.endswith("+xml") or media_type in _TEXT


def _text(data: bytes, charset: str) -> str | None:
    """None when the bytes are no text of that charset, UTF-8 when none is named."""
    try:
        name = codecs.lookup(charset or "utf-8").name
        text = data.decode(name) if name.startswith(_CHARSETS) else None
    except (LookupError, ValueError):
        return None
    return None if text is None or "\0" in text else text


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _unreached(what: str, exc: Exception) -> ToolError:
    # Its pool cuts off the cause, but httpcore2 makes its exceptions from the ones that they stand for.
    cause = next((each for each in exc.args if isinstance(each, ssl.SSLError)), None)
    if cause is None:
        return ToolUnavailable(what, "the connection failed or was cut")
    reason = getattr(cause, "verify_message", None) or cause.reason or "TLS failed"
    return ToolFailed(f"no secure connection to {what}: {reason}", details={"type": type(cause).__name__})


def _broken(what: str, exc: Exception) -> ToolError:
    # The library has one class for both; only its words tell a connection that was cut from an answer that is no HTTP.
    if "disconnected" in str(exc) or "peer closed connection" in str(exc):
        return ToolUnavailable(what, "it closed the connection before its answer was complete")
    return InvalidOutput(f"{what} sent what is no valid HTTP: {printable(str(exc), 200)}")
