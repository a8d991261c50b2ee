"""HTTP APIs as tools. Needs the extra `http`."""

from gateway.providers.http.api import RESPONSE_HEADERS, HttpApi
from gateway.providers.http.auth import ApiKey, Auth, Basic, Bearer
from gateway.providers.http.body import Binary, Body, Form, Json, Multipart, Text
from gateway.providers.http.template import Styled

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
    "Json",
    "Multipart",
    "Styled",
    "Text",
]
