"""From the arguments of a call to an HTTP request. A value never becomes a path segment of its own, or a header."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from gateway.base import JsonValue
from gateway.errors import InvalidInput, InvalidRequest
from gateway.providers.http.body import Body
from gateway.providers.http.template import Styled, Template, as_text, query_pairs, query_parts

KEY_HEADER = "Idempotency-Key"
"""Tells a server which requests are the same."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LITERAL = "/:@!$&'()*+,;=~%"
_NOT_YOURS = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Request:
    """What goes on the wire, but for what the client adds. `target` is the path and query, encoded."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    content: bytes | None

    def with_key(self, key: str) -> "Request":
        """The same request under this idempotency key. Raises InvalidInput for one that no header can carry."""
        if not key.isascii() or not key.isprintable():
            raise InvalidInput("the idempotency key is sent in a header, so it must be printable ASCII")
        return replace(self, headers=(*self.headers, (KEY_HEADER, key)))


class RequestTemplate:
    """A method, a path and where arguments go. Raises InvalidRequest for what could not be sent.

    `path` begins with a slash and may have a fixed query. `{name}` in it fills one segment or a part of it, `{+name}`
    as many segments as the value has. A slash in a value of `{name}` is refused, or with `encoded_slashes` sent as %2F.
    """

    def __init__(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | Styled],
        headers: Mapping[str, str],
        cookies: Mapping[str, str],
        body: Body | None,
        encoded_slashes: bool,
    ) -> None:
        self.method = _method(method)
        self.path = path
        path, _, self._fixed = path.partition("?")
        self._parts = _path_parts(path, self._fixed)
        self._query = query_parts(query)
        self._headers = tuple((header_name(name), Template(text)) for name, text in headers.items())
        self._cookies = tuple((header_name(name), Template(text)) for name, text in cookies.items())
        self._body = body
        self._encoded_slashes = encoded_slashes

    @property
    def path_names(self) -> tuple[str, ...]:
        return tuple(name.removeprefix("+") for _, name in self._parts if name)

    @property
    def names(self) -> frozenset[str]:
        """Every argument that is sent."""
        elsewhere = [part.template for part in self._query] + [text for _, text in (*self._headers, *self._cookies)]
        body = () if self._body is None else self._body.names
        return frozenset((*self.path_names, *(name for template in elsewhere for name in template.names), *body))

    def has_header(self, name: str) -> bool:
        return name.lower() in (own.lower() for own, _ in self._headers)

    def fill(self, arguments: Mapping[str, JsonValue]) -> Request:
        """The request of one call. Raises InvalidInput."""
        pairs = ([self._fixed] if self._fixed else []) + query_pairs(self._query, arguments)
        target = self._filled_path(arguments) + ("?" + "&".join(pairs) if pairs else "")
        headers = [(name, text) for name, template in self._headers if (text := _line(template, arguments)) is not None]
        cookies = [f"{name}={text}" for name, template in self._cookies if (text := _cookie(template, arguments))]
        if cookies:
            headers.append(("Cookie", "; ".join(cookies)))
        body = None if self._body is None else self._body.encode(arguments)
        if body is None:
            return Request(self.method, target, tuple(headers), None)
        return Request(self.method, target, (*headers, ("Content-Type", body[0])), body[1])

    def _filled_path(self, arguments: Mapping[str, JsonValue]) -> str:
        return "".join(literal + self._segment(name, arguments) for literal, name in self._parts)

    def _segment(self, name: str, arguments: Mapping[str, JsonValue]) -> str:
        if not name:
            return ""
        plain = name.removeprefix("+")
        value = arguments.get(plain)
        if value is None:
            raise InvalidInput(f"{plain} is missing; it is a part of the path")
        if name != plain:
            return "/".join(_safe(plain, each) for each in as_text(plain, value).split("/"))
        values = value if isinstance(value, list) and value else [value]
        return ",".join(self._encoded(plain, as_text(plain, each)) for each in values)

    def _encoded(self, name: str, text: str) -> str:
        if not self._encoded_slashes:
            return _safe(name, text)
        # Many servers decode %2F before they look for `..`, so each piece must be harmless by itself.
        return "%2F".join(_safe(name, each) for each in text.split("/"))


def header_name(name: str) -> str:
    """The name itself. Raises InvalidRequest when it cannot be one, or is the client's to set."""
    if not _TOKEN.fullmatch(name):
        raise InvalidRequest(f"{name!r} cannot be the name of a header or cookie")
    if name.lower() in _NOT_YOURS or name.lower().startswith("proxy-"):
        raise InvalidRequest(f"the header {name} is set by the client; the content type comes from the body")
    return name


def _method(method: str) -> str:
    if method not in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
        raise InvalidRequest(f"method {method!r} is none of GET, HEAD, OPTIONS, POST, PUT, PATCH and DELETE")
    return method


def _path_parts(path: str, fixed_query: str) -> tuple[tuple[str, str], ...]:
    """Encoded text, and the placeholder behind it."""
    if not path.startswith("/") or "#" in path + fixed_query or _CONTROL.search(path + fixed_query):
        raise InvalidRequest(f"path {path!r} must begin with / and have no fragment")
    if "{" in fixed_query or "}" in fixed_query:
        raise InvalidRequest(f"placeholders of the query of {path!r} belong into query=")
    if any(segment in (".", "..") for segment in path.split("/")):
        raise InvalidRequest(f"path {path!r} must not have . or .. as a segment")
    return tuple((quote(literal, safe=_LITERAL), name) for literal, name in Template(path).parts)


def _safe(name: str, text: str) -> str:
    if not text or text in (".", "..") or "/" in text or "\\" in text or _CONTROL.search(text):
        raise InvalidInput(
            f"{name} is a part of the path: it must not be empty, . or .., and have no slash, backslash or control "
            f"character, but is {text[:100]!r}"
        )
    return quote(text, safe="")


def _line(template: Template, arguments: Mapping[str, JsonValue]) -> str | None:
    value = template.value(arguments)
    if value is None:
        return None
    name = template.only or ", ".join(template.names)
    text = ",".join(as_text(name, each) for each in (value if isinstance(value, list) else [value]))
    if not text.isascii() or _CONTROL.search(text):
        raise InvalidInput(f"{name} is sent in a header, so it must be printable ASCII in one line")
    return text.strip(" ")


def _cookie(template: Template, arguments: Mapping[str, JsonValue]) -> str | None:
    text = template.filled(arguments)
    return None if text is None else quote(text, safe="")
