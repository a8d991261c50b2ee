"""HTTP APIs as tools: one client for each API, one template of a request for each tool."""

import math
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlsplit

from gateway.base import MAX_RESULT_BYTES, JsonValue
from gateway.errors import InvalidRequest, MissingExtra
from gateway.policies.egress import Egress, origin
from gateway.providers.http.auth import ApiKey, Auth, Basic, Bearer
from gateway.providers.http.body import Binary, Body, Form, Json, Multipart, Text
from gateway.providers.http.request import KEY_HEADER, RequestTemplate, header_name
from gateway.providers.http.template import Styled
from gateway.providers.secret import Secret
from gateway.tools.model import Tool, ToolFields, ToolId

if TYPE_CHECKING:
    from gateway.providers.http.connection import Connection

__all__ = [
    "RESPONSE_HEADERS",
    "ApiKey",
    "Auth",
    "Basic",
    "Bearer",
    "Binary",
    "Body",
    "Form",
    "HttpApi",
    "HttpFields",
    "Json",
    "Multipart",
    "Secret",
    "Styled",
    "Text",
]

RESPONSE_HEADERS = ("content-type", "etag", "last-modified", "link", "location")
"""What is usually worth knowing of a response's headers."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_IDEMPOTENT = _SAFE | {"PUT", "DELETE"}
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_COMPOSED = ("$ref", "allOf", "anyOf", "oneOf")
_SCALAR = ["string", "number", "boolean"]


class HttpFields(ToolFields, total=False):
    """What else a Tool has; see there."""

    output_schema: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class HttpApi:
    """One HTTP API. Its tools share a pool of connections, which the first call opens.

    Requests go to `base_url` (the paths of tools are appended), and nowhere else unless `egress` allows it. `headers`
    and `auth` are added to requests for the origin of `base_url` alone, below everything that logs or redirects; a
    header whose value is secret is given as a function. What `auth` and such functions give is masked in answers.
    Proxies of the environment are not used, and cookies are not kept.

    `connect_timeout_seconds` bounds one connection with the look-up of its name, `max_response_bytes` one response
    after decompression. Redirects are followed `max_redirects` times, each checked as the first request was.
    `health_path` is what `health()` asks for; without it `health()` only connects. `ssl_context` None stands for the
    system's certificates. With `encoded_slashes` a slash in a path argument is sent as %2F, for servers that do not
    decode it too early; otherwise it is refused.

    An API serves one event loop at a time. Raises InvalidRequest, MissingExtra.
    """

    base_url: str
    headers: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    auth: Auth | None = None
    egress: Egress = field(default_factory=Egress)
    connect_timeout_seconds: float = 10.0
    max_response_bytes: int = MAX_RESULT_BYTES
    max_redirects: int = 0
    max_connections: int = 100
    health_path: str | None = None
    ssl_context: ssl.SSLContext | None = None
    encoded_slashes: bool = False
    _connection: "Connection" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        home = _checked_base(self.base_url)
        _check_bounds(self)
        for name in self.headers:
            header_name(name)
        if self.health_path is not None and not self.health_path.startswith("/"):
            raise InvalidRequest(f"health_path {self.health_path!r} must begin with /")
        object.__setattr__(self, "egress", self.egress.with_url(self.base_url))
        object.__setattr__(self, "_connection", _connection(self, home))

    def tool(
        self,
        tool_id: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | Styled] | None = None,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        body: Body | JsonValue = None,
        input_schema: Mapping[str, Any] | None = None,
        response_headers: Iterable[str] | None = None,
        **fields: Unpack[HttpFields],
    ) -> Tool:
        """A tool that makes one kind of request.

        `path`, `query`, `headers`, `cookies` and `body` are templates: `{name}` in them stands for an argument. In the
        path it fills one segment or a part of it, and `{+name}` as many segments as the value has. A query parameter,
        header, cookie or field of the body whose argument is not given is left out; a list repeats its query parameter.
        `body` is a JSON template, or one of Json, Form, Text, Binary and Multipart.

        Arguments of `input_schema` that no template names go into a JSON body with POST, PUT and PATCH, and into the
        query otherwise, unless `body` or `query` says what goes there. Without `input_schema` there is one argument for
        each placeholder; those of the path are required.

        The result is the body: JSON, text, {base64, media_type}, or None for none. With `response_headers` (names) it
        is {status, headers, body}; HEAD always gives that. Of `fields`, `read_only`, `destructive` and `idempotent`
        come from the method if they are not given. A call with an idempotency key sends it as `Idempotency-Key`, unless
        the tool is read-only or has such a header itself. Raises InvalidToolId, InvalidRequest.
        """
        template = self._template(method, path, query, headers, cookies, body, input_schema)
        if method == "HEAD" and response_headers is None:
            response_headers = RESPONSE_HEADERS
        told: dict[str, Any] = {
            "open_world": True,
            "read_only": method in _SAFE,
            "destructive": method == "DELETE" or None,
            "idempotent": method in _IDEMPOTENT,
            **fields,
        }
        return Tool(
            id=ToolId.parse(tool_id),
            provider=self._connection.provider(
                template,
                response_headers,
                fields.get("timeout_seconds", 30.0),
                sends_key=not told["read_only"] and not template.has_header(KEY_HEADER),
            ),
            input_schema=_inferred(template) if input_schema is None else _closed(input_schema, template),
            **told,
        )

    async def health(self) -> None:
        """Return when the API answers: `health_path` with success, or else its port at all. Raises ToolError."""
        await self._connection.health()

    async def aclose(self) -> None:
        """Close all connections. Idempotent; a later call opens new ones."""
        await self._connection.aclose()

    def _template(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | Styled] | None,
        headers: Mapping[str, str] | None,
        cookies: Mapping[str, str] | None,
        body: Body | JsonValue,
        input_schema: Mapping[str, Any] | None,
    ) -> RequestTemplate:
        """The request, with a place for the arguments that no template names."""

        def made(query: Mapping[str, str | Styled], body: Body | None) -> RequestTemplate:
            return RequestTemplate(
                method,
                path,
                query=query,
                headers=headers or {},
                cookies=cookies or {},
                body=body,
                encoded_slashes=self.encoded_slashes,
            )

        given = body if body is None or isinstance(body, Body) else Json(body)
        template = made(query or {}, given)
        spare = [name for name in (input_schema or {}).get("properties", {}) if name not in template.names]
        places = {name: "{" + name + "}" for name in spare}
        if spare and body is None and method in _WITH_BODY:
            return made(query or {}, Json(places))
        if spare and query is None and method not in _WITH_BODY:
            return made(places, given)
        if spare:
            raise InvalidRequest(f"{method} {path} has no place for {', '.join(spare)}; name them in a template")
        return template


def _connection(api: HttpApi, home: tuple[str, str, int]) -> "Connection":
    try:
        from gateway.providers.http.connection import Connection  # noqa: PLC0415 - it needs an optional library
    except ModuleNotFoundError as exc:
        raise MissingExtra("HTTP tools", "http") from exc
    return Connection(api, home)


def _checked_base(base_url: str) -> tuple[str, str, int]:
    home = origin(base_url)
    parts = urlsplit(base_url)
    if home[0] not in ("http", "https"):
        raise InvalidRequest(f"base_url must begin with http:// or https://, not {home[0]}://")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidRequest("base_url must have no user, query or fragment; credentials belong into auth=")
    return home


def _check_bounds(api: HttpApi) -> None:
    if not (api.connect_timeout_seconds > 0 and math.isfinite(api.connect_timeout_seconds)):
        raise InvalidRequest(f"connect_timeout_seconds must be above 0 and finite, not {api.connect_timeout_seconds}")
    for name in ("max_response_bytes", "max_connections"):
        if getattr(api, name) < 1:
            raise InvalidRequest(f"{name} must be at least 1, not {getattr(api, name)}")
    if api.max_redirects < 0:
        raise InvalidRequest(f"max_redirects must be at least 0, not {api.max_redirects}")


def _inferred(template: RequestTemplate) -> dict[str, Any]:
    """One argument for each placeholder; in a path there is no room for a list."""
    path = template.path_names
    properties: dict[str, Any] = {name: {"type": _SCALAR} if name in path else {} for name in sorted(template.names)}
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(set(path)),
        "additionalProperties": False,
    }


def _closed(schema: Mapping[str, Any], template: RequestTemplate) -> dict[str, Any]:
    """The schema, which must know the placeholders, and admits nothing that would be sent nowhere."""
    if any(word in schema for word in _COMPOSED):
        return dict(schema)  # what it admits is not to be seen from here
    unknown = template.names - set(schema.get("properties", {}))
    if unknown:
        raise InvalidRequest(f"{', '.join(sorted(unknown))}: named in a template, but not in the input schema")
    if schema.get("additionalProperties", False) is not False:
        raise InvalidRequest("arguments that the input schema does not name would be sent nowhere; name them in it")
    return {**schema, "additionalProperties": False}
