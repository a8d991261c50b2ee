"""The kinds of providers that come with the gateway, as they are described in data."""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.errors import InvalidRequest
from gateway.policies.egress import Egress
from gateway.providers.cli import cli_tool
from gateway.providers.dynamodb import DynamoDb
from gateway.providers.http import ApiKey, Auth, Basic, Bearer, Form, HttpApi, Text
from gateway.providers.kinds import ProviderKind
from gateway.secrets import SecretRef
from gateway.tools.model import Tool

if TYPE_CHECKING:
    from gateway.providers.sql import SqlDatabase

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_COUNT = {"type": "integer", "minimum": 1}
_SECONDS = {"type": "number", "exclusiveMinimum": 0}
_SWITCH = {"type": "boolean"}
_TABLE = {"type": "object", "additionalProperties": _TEXT}
_SECRET = {
    "description": "a text, { secret = NAME } for that secret of the host, or { env = NAME } for that environment "
    "variable, both at the time of the call",
    "writeOnly": True,
    "type": ["string", "object"],
    "properties": {"env": _TEXT, "secret": _TEXT},
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}
_SECRETS = {"writeOnly": True, "type": "object", "additionalProperties": _SECRET}


def secret(written: str | Mapping[str, str]) -> str | Callable[[], str]:
    """A secret as data has it. Raises InvalidRequest for an environment variable that is not there."""
    if isinstance(written, str):
        return written
    if "secret" in written:
        return SecretRef(written["secret"])
    name = written["env"]
    if name not in os.environ:
        raise InvalidRequest(f"the environment variable {name} is not set; set it before the tools are read")
    return lambda: os.environ[name]


def _told(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the fields that are there, with secrets made usable."""
    return {name: secret(fields[name]) for name in names if name in fields}


def _tables(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: {key: secret(value) for key, value in fields[name].items()} for name in names if name in fields}


def _schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"input_schema": tool["input_schema"]} if "input_schema" in tool else {}


def _cli(connection: None, tool: Mapping[str, Any], fields: dict[str, Any]) -> Tool:
    del connection
    return cli_tool(str(tool["id"]), **_schema(tool), **(fields | _tables(fields, "env")))


def _http_api(fields: dict[str, Any]) -> HttpApi:
    options = fields | _tables(fields, "headers")
    if "auth" in options:
        options["auth"] = _http_auth(**options["auth"])
    return HttpApi(egress=Egress(tuple(options.pop("allow", ()))), **options)


def _http_auth(type: str, **fields: Any) -> Auth:  # noqa: A002 - what it is called in the data
    kinds: dict[str, Callable[..., Auth]] = {"bearer": Bearer, "basic": Basic, "api_key": ApiKey}
    return kinds[type](**(fields | _told(fields, "token", "password", "key")))


def _http(api: HttpApi, tool: Mapping[str, Any], fields: dict[str, Any]) -> Tool:
    bodies = fields.keys() & {"body", "form", "text"}
    if len(bodies) > 1:
        raise InvalidRequest(f"a request has one body, not {' and '.join(sorted(bodies))}; give one of them")
    if "form" in fields:
        fields["body"] = Form(fields.pop("form"))
    if "text" in fields:
        fields["body"] = Text(fields.pop("text"))
    timeout = {"timeout_seconds": tool["timeout_seconds"]} if "timeout_seconds" in tool else {}
    return api.tool(str(tool["id"]), **_schema(tool), **timeout, **fields)


def _sql_database(fields: dict[str, Any]) -> "SqlDatabase":
    from gateway.providers.sql import SqlDatabase  # noqa: PLC0415 - of an extra

    egress = Egress(tuple(fields.pop("allow", ())))
    return SqlDatabase(egress=egress, **(fields | _told(fields, "password")))


def _sql(database: "SqlDatabase", tool: Mapping[str, Any], fields: dict[str, Any]) -> Tool:
    offers = {"query": database.query_tool, "schema": database.schema_tool}
    if len(fields) != 1:
        raise InvalidRequest("the provider has a statement, or offers query or schema; give one of them")
    if "statement" in fields:
        return database.tool(str(tool["id"]), fields["statement"], **_schema(tool))
    if "input_schema" in tool:
        raise InvalidRequest(f"what {fields['offers']} takes is fixed; leave parameters and input_schema out")
    return offers[fields["offers"]](str(tool["id"]))


def _dynamodb_client(fields: dict[str, Any]) -> DynamoDb:
    egress = Egress(tuple(fields.pop("allow", ())))
    return DynamoDb(egress=egress, **(fields | _told(fields, "access_key_id", "secret_access_key", "session_token")))


def _dynamodb(database: DynamoDb, tool: Mapping[str, Any], fields: dict[str, Any]) -> Tool:
    if "input_schema" in tool:
        raise InvalidRequest("what an operation takes is fixed; leave parameters and input_schema out")
    return database.tool(str(tool["id"]), fields["operation"], fields["table"])


def _auth(kind: str, optional: tuple[str, ...] = (), /, **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **fields},
        "required": ["type", *(field for field in fields if field not in optional)],
        "additionalProperties": False,
    }


_AUTH = {
    "writeOnly": True,
    "oneOf": [
        _auth("bearer", token=_SECRET),
        _auth("basic", user=_TEXT, password=_SECRET),
        _auth("api_key", ("where",), name=_TEXT, key=_SECRET, where={"enum": ["header", "query", "cookie"]}),
    ],
}

BUILTIN: Mapping[str, ProviderKind] = {
    "cli": ProviderKind(
        make=_cli,
        required=("argv",),
        fields={
            "argv": {"type": "array", "items": {"type": ["string", "array"], "items": _TEXT}, "minItems": 1},
            "cwd": _TEXT,
            "env": _SECRETS,
            "stdin": _TEXT,
            "output": {"enum": ["text", "lines", "json", "process"]},
            "ok_codes": {"type": "array", "items": {"type": "integer"}},
            "retry_codes": {"type": "array", "items": {"type": "integer"}},
            "max_output_bytes": _COUNT,
            "max_processes": _COUNT,
        },
    ),
    "http": ProviderKind(
        make=_http,
        required=("method", "path"),
        fields={
            "method": _TEXT,
            "path": _TEXT,
            "query": _TABLE,
            "headers": _TABLE,
            "cookies": _TABLE,
            "body": {"description": "a JSON template"},
            "form": _TABLE,
            "text": _TEXT,
            "response_headers": _TEXTS,
        },
        connect=_http_api,
        connection_required=("base_url",),
        connection_fields={
            "base_url": _TEXT,
            "headers": _SECRETS,
            "auth": _AUTH,
            "allow": _TEXTS,
            "connect_timeout_seconds": _SECONDS,
            "max_response_bytes": _COUNT,
            "max_redirects": {"type": "integer", "minimum": 0},
            "max_connections": _COUNT,
            "health_path": _TEXT,
            "encoded_slashes": _SWITCH,
        },
    ),
    "sql": ProviderKind(
        make=_sql,
        fields={"statement": _TEXT, "offers": {"enum": ["query", "schema"]}},
        connect=_sql_database,
        connection_required=("url",),
        connection_fields={
            "url": _TEXT,
            "password": _SECRET,
            "read_only": _SWITCH,
            "max_rows": _COUNT,
            "statement_timeout_seconds": _SECONDS,
            "pool_size": _COUNT,
            "pool_wait_seconds": _SECONDS,
            "tls": {"enum": ["verify", "encrypt", "off"]},
            "ca_file": _TEXT,
            "functions": _TEXTS,
            "allow": _TEXTS,
        },
    ),
    "dynamodb": ProviderKind(
        make=_dynamodb,
        required=("operation", "table"),
        fields={"operation": _TEXT, "table": _TEXT},
        connect=_dynamodb_client,
        connection_fields={
            "region": _TEXT,
            "endpoint_url": _TEXT,
            "access_key_id": _SECRET,
            "secret_access_key": _SECRET,
            "session_token": _SECRET,
            "connect_timeout_seconds": _SECONDS,
            "read_timeout_seconds": _SECONDS,
            "max_connections": _COUNT,
            "allow": _TEXTS,
        },
    ),
}
"""The built-in kinds. What the fields mean is said where each provider takes them, under the same names."""
