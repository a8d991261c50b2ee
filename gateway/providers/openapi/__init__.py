"""The operations of an OpenAPI document as tools. Needs the extra `openapi`."""

from gateway.providers.openapi.tools import openapi_tools

__all__ = ["openapi_tools"]
