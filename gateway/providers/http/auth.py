"""What the host adds to the requests of an API: headers, keys and passwords that no caller sees."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import quote

from gateway.errors import InvalidRequest, ToolFailed
from gateway.providers.http.request import header_name
from gateway.providers.secret import Secret, revealed

_SENDABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


@dataclass(frozen=True, slots=True)
class Bearer:
    """`Authorization: Bearer ...`"""

    token: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class Basic:
    """`Authorization: Basic ...`"""

    user: str
    password: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in a header, in the query or in a cookie of that name."""

    name: str
    key: Secret = field(repr=False)
    where: Literal["header", "query", "cookie"] = "header"

    def __post_init__(self) -> None:
        if self.where not in ("header", "query", "cookie"):
            raise InvalidRequest(f"an API key goes into header, query or cookie, not {self.where!r}")
        if self.where != "query":
            header_name(self.name)


Auth: TypeAlias = Bearer | Basic | ApiKey


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is added to one request. `query` and `cookie` are encoded; `secrets` must not come back in an answer."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    query: bytes = b""
    cookie: bytes = b""
    secrets: tuple[bytes, ...] = ()


NO_CREDENTIALS = Credentials()


def credentials(headers: Mapping[str, Secret], auth: Auth | None) -> Credentials:
    """What these add now. Raises ToolFailed for a value that a header cannot carry."""
    lines = {name: revealed(value) for name, value in headers.items()}
    secrets = [lines[name] for name, value in headers.items() if callable(value)]
    query = cookie = ""
    match auth:
        case Bearer():
            secrets.append(revealed(auth.token))
            lines["Authorization"] = f"Bearer {secrets[-1]}"
        case Basic():
            password = revealed(auth.password)
            encoded = base64.b64encode(f"{auth.user}:{password}".encode()).decode()
            secrets += [password, encoded]
            lines["Authorization"] = f"Basic {encoded}"
        case ApiKey():
            key = revealed(auth.key)
            secrets += [key, quote(key, safe="")]
            match auth.where:
                case "header":
                    lines[auth.name] = key
                case "query":
                    query = f"{quote(auth.name, safe='')}={quote(key, safe='')}"
                case "cookie":
                    cookie = f"{auth.name}={quote(key, safe='')}"
    return Credentials(
        tuple(_line(name, text) for name, text in lines.items()),
        query.encode(),
        cookie.encode(),
        tuple(secret.encode() for secret in secrets),
    )


def _line(name: str, text: str) -> tuple[bytes, bytes]:
    if not _SENDABLE.fullmatch(text):
        raise ToolFailed(f"the host's value for the header {name} is empty, or has what a header cannot carry")
    return name.encode(), text.encode()
