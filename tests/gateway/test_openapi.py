"""Tools from OpenAPI documents, and the requests that they make."""

import contextlib
import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidInput, InvalidOutput, InvalidRequest
from gateway.providers.http import ApiKey, HttpApi
from gateway.providers.openapi import openapi_tools
from gateway.providers.openapi.document import MAX_DOCUMENT_BYTES, Document
from gateway.providers.openapi.schema import Schemas
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry
from tests.gateway.http_server import Server, always, call, echo, response, serving

pytestmark = pytest.mark.anyio

API = HttpApi(base_url="http://127.0.0.1:1/v1")

SHOP: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Shop", "version": "1"},
    "servers": [{"url": "http://169.254.169.254/"}],
    "security": [{"key": []}],
    "paths": {
        "/users/{user-id}": {
            "parameters": [{"$ref": "#/components/parameters/UserId"}],
            "get": {
                "operationId": "users/get-one",
                "summary": "One user",
                "description": "With everything.",
                "tags": ["Users", "read it"],
                "parameters": [
                    {"name": "fields", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {"name": "from", "in": "query", "schema": {"type": "string"}},
                    {"name": "filter", "in": "query", "style": "deepObject", "schema": {"type": "object"}},
                    {"name": "ids", "in": "query", "explode": False, "schema": {"type": "array"}},
                    {"name": "page", "in": "query", "schema": {"type": "object"}},
                    {"name": "q", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}},
                    {"name": "X-Trace-ID", "in": "header", "schema": {"type": "string"}},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                    {"name": "api_key", "in": "query", "required": True, "schema": {"type": "string"}},
                    {"name": "lang", "in": "cookie", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/User"}}}}
                },
            },
            "put": {
                "requestBody": {"$ref": "#/components/requestBodies/User"},
                "responses": {"204": {"description": "done"}},
            },
            "delete": {"deprecated": True, "responses": {}},
            "head": {"responses": {"200": {"description": "there"}}},
            "trace": {"responses": {}},
        },
        "/users": {
            "post": {
                "operationId": "users.get_one",
                "requestBody": {"$ref": "#/components/requestBodies/User"},
                "responses": {"201": {"content": {"application/json": {"schema": {"type": "object"}}}}, "204": {}},
            }
        },
        "x-internal": {},
    },
    "components": {
        "parameters": {
            "UserId": {"name": "user-id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
        },
        "requestBodies": {
            "User": {
                "required": True,
                "content": {
                    "application/xml": {"schema": {"type": "string"}},
                    "application/json": {"schema": {"$ref": "#/components/schemas/User"}},
                },
            }
        },
        "schemas": {
            "User": {
                "type": "object",
                "required": ["id", "name", "password"],
                "properties": {
                    "id": {"type": "integer", "readOnly": True},
                    "password": {"type": "string", "writeOnly": True},
                    "name": {"type": "string", "nullable": True, "example": "Ann", "xml": {"name": "n"}},
                    "kind": {"type": "string", "nullable": True, "enum": ["a", "b"]},
                    "age": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                    "boss": {"nullable": True, "allOf": [{"$ref": "#/components/schemas/User"}]},
                    "friends": {"type": "array", "items": {"$ref": "#/components/schemas/User"}},
                    "pet": {"oneOf": [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}]},
                },
            },
            "Cat": {"type": "object", "required": ["meow"], "properties": {"meow": {"type": "boolean"}}},
            "Dog": {"allOf": [{"$ref": "#/components/schemas/Cat"}, {"required": ["bark"]}]},
            "Unused": {"$ref": "https://evil.net/schema.json"},
        },
        "securitySchemes": {"key": {"type": "apiKey", "in": "query", "name": "api_key"}},
    },
}


REF = "#/components/schemas/A"


def shop(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(SHOP) | changes


def document(operation: Any, path: str = "/x", method: str = "post", **more: Any) -> dict[str, Any]:
    return {"openapi": "3.1.0", "paths": {path: {method: operation}}} | more


def by_name(tools: tuple[Tool, ...]) -> dict[str, Tool]:
    return {tool.id.name: tool for tool in tools}


@pytest.fixture
async def echoing() -> AsyncIterator[tuple[Server, HttpApi]]:
    async with serving(echo) as server:
        api = HttpApi(base_url=f"{server.url}/v1", auth=ApiKey("api_key", "sesame-open", "query"))
        yield server, api
        await api.aclose()


def test_one_tool_for_each_operation() -> None:
    tools = by_name(openapi_tools(shop(), API, namespace="shop"))
    assert list(tools) == [
        "users_get_one",
        "put_users_user_id",
        "delete_users_user_id",
        "head_users_user_id",
        "users_get_one_2",
    ]
    ToolRegistry(tools.values())
    got = tools["users_get_one"]
    assert str(got.id) == "shop:users_get_one"
    assert got.description == "One user\n\nWith everything."
    assert (got.title, got.tags) == ("One user", ("users", "read-it"))
    assert [(tool.read_only, tool.idempotent) for tool in tools.values()] == [
        (True, True),
        (False, True),
        (False, True),
        (True, True),
        (False, False),
    ]
    assert tools["delete_users_user_id"].description == "Deprecated."


def test_arguments_are_identifiers_and_never_credentials() -> None:
    tool = by_name(openapi_tools(shop(), API))["users_get_one"]
    assert set(tool.input_schema["properties"]) == {
        *("user_id", "fields", "from_", "filter", "ids", "page", "q", "X_Trace_ID", "lang")
    }
    assert tool.input_schema["required"] == ["user_id"]
    assert tool.input_schema["properties"]["user_id"] == {"type": "integer", "minimum": 1}


async def test_calls_go_to_the_apis_own_base_url(echoing: tuple[Server, HttpApi]) -> None:
    server, api = echoing
    tools = by_name(openapi_tools(shop(), api, output_schemas=False))
    arguments = {
        "user_id": 7,
        "fields": ["a&b", "c"],
        "from_": "x",
        "filter": {"age": 3},
        "ids": [1, 2],
        "page": {"size": 5, "sort": ["n", "m"]},
        "q": {"a": 1},
        "X_Trace_ID": "t",
        "lang": "de",
    }
    said = await call(tools["users_get_one"], arguments)
    assert server.seen[0].target == (
        "/v1/users/7?fields=a%26b&fields=c&from=x&filter%5Bage%5D=3&ids=1,2&size=5&sort=n&sort=m&q=%7B%22a%22%3A1%7D"
        "&api_key=sesame-open"
    )
    assert said["headers"]["X-Trace-ID"] == "t"
    assert said["headers"]["Cookie"] == "lang=de"
    assert "authorization" not in {name.lower() for name in said["headers"]}
    put = await call(tools["put_users_user_id"], {"user_id": 1, "body": {"name": None, "password": "p"}})
    assert (put["method"], put["body"]) == ("PUT", '{"name":null,"password":"p"}')
    assert server.seen[1].header("Content-Type") == "application/json"
    with pytest.raises(InvalidInput, match="body"):
        await call(tools["put_users_user_id"], {"user_id": 1})
    with pytest.raises(InvalidInput):
        await call(tools["users_get_one"], {"user_id": 0})


def test_schemas_of_30_become_2020_12() -> None:
    tool = by_name(openapi_tools(shop(), API))["put_users_user_id"]
    assert tool.input_schema["properties"]["body"] == {"$ref": "#/$defs/User"}
    assert set(tool.input_schema["$defs"]) == {"User", "Cat", "Dog"}
    user = tool.input_schema["$defs"]["User"]
    assert user["required"] == ["name", "password"]
    assert user["properties"] == {
        "password": {"type": "string"},
        "name": {"type": ["string", "null"]},
        "kind": {"type": ["string", "null"], "enum": ["a", "b", None]},
        "age": {"type": "integer", "exclusiveMinimum": 0},
        "boss": {"anyOf": [{"allOf": [{"$ref": "#/$defs/User"}]}, {"type": "null"}]},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/User"}},
        "pet": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]},
    }


async def test_results_are_held_against_the_document() -> None:
    tools = by_name(openapi_tools(shop(), API))
    output = tools["users_get_one"].output_schema or {}
    assert set(output["$defs"]["User"]["properties"]) >= {"id", "name"}
    assert "password" not in output["$defs"]["User"]["properties"]
    assert tools["put_users_user_id"].output_schema == {"type": "null"}
    assert tools["users_get_one_2"].output_schema == {"anyOf": [{"type": "object"}, {"type": "null"}]}
    assert tools["head_users_user_id"].output_schema is None
    assert by_name(openapi_tools(shop(), API, output_schemas=False))["users_get_one"].output_schema is None
    async with serving(always(response('{"id": "seven"}'))) as server:
        api = HttpApi(base_url=server.url)
        with pytest.raises(InvalidOutput):
            await call(by_name(openapi_tools(shop(), api))["users_get_one"], {"user_id": 7})
        await api.aclose()


@pytest.mark.parametrize(
    ("responses", "known"),
    [
        ({"200": ["application/json"]}, True),
        ({"200": ["application/json"], "201": ["application/json"]}, True),
        ({"200": ["application/json"], "404": ["text/plain"], "default": ["text/plain"]}, True),
        ({"200": ["application/json", "application/xml"]}, False),
        ({"200": ["application/json"], "202": ["text/plain"]}, False),
        ({"2XX": ["application/json"]}, True),
        ({"200": ["image/png"]}, False),
        ({"404": ["application/json"]}, False),
    ],
)
def test_results_are_described_only_where_the_document_tells_of_them_all(responses: Any, known: bool) -> None:
    contents = {
        status: {"content": {media_type: {"schema": {"type": "object"}} for media_type in media_types}}
        for status, media_types in responses.items()
    }
    (tool,) = openapi_tools(document({"responses": contents}), API)
    assert tool.output_schema == ({"type": "object"} if known else None)


@pytest.mark.parametrize(
    ("media_type", "schema", "arguments", "sent"),
    [
        ("application/x-www-form-urlencoded", {"properties": {"a": {}, "class": {}}}, {"a": "x&y", "class_": [1, 2]},
         "a=x%26y&class=1&class=2"),
        ("application/x-www-form-urlencoded", {"allOf": [{"$ref": REF}, {"properties": {"b": {}}}]},
         {"a": 1, "b": 2}, "a=1&b=2"),
        ("text/csv", {"type": "string"}, {"body": "a,b\n"}, "a,b\n"),
        ("application/octet-stream", {}, {"body": "YWJj"}, "abc"),
        ("application/vnd.x+json", {"type": "array"}, {"body": [1]}, "[1]"),
    ],
)  # fmt: skip
async def test_bodies_of_other_kinds(
    echoing: tuple[Server, HttpApi], media_type: str, schema: Any, arguments: Any, sent: str
) -> None:
    server, api = echoing
    operation = {"requestBody": {"content": {media_type: {"schema": schema}}}}
    components: Any = {"schemas": {"A": {"properties": {"a": {}}}}}
    (tool,) = openapi_tools(document(operation, components=components), api)
    assert (await call(tool, arguments))["body"] == sent
    assert server.seen[0].header("Content-Type") == media_type


async def test_files_are_arguments_in_base64(echoing: tuple[Server, HttpApi]) -> None:
    schema = {
        "required": ["photo"],
        "properties": {
            "photo": {"type": "string", "format": "binary"},
            "more": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "tags": {"type": "array"},
            "id": {"type": "integer", "readOnly": True},
        },
    }
    operation = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
    (tool,) = openapi_tools(document(operation), echoing[1])
    assert set(tool.input_schema["properties"]) == {"photo", "more", "tags"}
    assert tool.input_schema["required"] == ["photo"]
    body = (await call(tool, {"photo": "YWJj", "tags": ["x", "y"]}))["body"]
    assert body.count('name="tags"') == 2
    assert 'name="photo"; filename="photo"\r\nContent-Type: application/octet-stream\r\n\r\nabc\r\n' in body


def test_arguments_of_one_name_are_told_apart() -> None:
    parameters: list[Any] = [
        {"name": "id", "in": where, "required": True, "schema": {}} for where in ("path", "query", "header")
    ]
    operation = {
        "parameters": [*parameters, {"name": "body", "in": "query"}],
        "requestBody": {"content": {"application/json": {}}},
    }
    (tool,) = openapi_tools(document(operation, "/x/{id}"), API)
    assert set(tool.input_schema["properties"]) == {"id", "id_query", "id_header", "body", "body_body"}


def test_an_operations_own_parameter_replaces_that_of_its_path() -> None:
    shared = {"name": "n", "in": "query", "schema": {"type": "string"}}
    own = {"name": "n", "in": "query", "schema": {"type": "integer"}}
    paths = {"/x": {"parameters": [shared], "get": {"parameters": [own]}}}
    (tool,) = openapi_tools({"openapi": "3.1.0", "paths": paths}, API)
    assert tool.input_schema["properties"] == {"n": {"type": "integer"}}


@pytest.mark.parametrize(
    ("operation_id", "name"),
    [
        ("getUser", "getUser"),
        ("repos/get-content", "repos_get_content"),
        ("run_tool", "run_tool_operation"),
        ("_private", "private"),
        ("import", "import_"),
        ("löschen", "l_schen"),
        ("!!!", "operation"),
        ("x" * 500, "x" * 100),
    ],
)
def test_names_can_be_called(operation_id: str, name: str) -> None:
    (tool,) = openapi_tools(document({"operationId": operation_id}), API)
    assert tool.id.name == name


def test_cycles_of_schemas_are_kept_and_bounded() -> None:
    schemas = {"A": {"properties": {"b": {"$ref": "#/components/schemas/B"}}}} | {
        "B": {"anyOf": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}]}
    }
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}
    (tool,) = openapi_tools(document({"requestBody": body}, components={"schemas": schemas}), API)
    assert tool.input_schema["$defs"]["B"] == {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}
    ToolRegistry([tool])


def test_long_chains_of_schemas_do_not_exhaust_the_stack() -> None:
    schemas: dict[str, Any] = {f"S{n}": {"items": {"$ref": f"#/components/schemas/S{n + 1}"}} for n in range(3000)}
    schemas["S3000"] = {}
    converter = Schemas(Document(document({}, components={"schemas": schemas})), "request")
    found = converter.complete(converter.converted({"$ref": "#/components/schemas/S0"}, ""))
    assert len(found["$defs"]) == 3001


def test_data_that_looks_like_a_reference_is_data() -> None:
    schema = {"default": {"$ref": "#/nowhere"}, "enum": [{"$ref": "#/nowhere"}], "description": "x"}
    body = {"content": {"application/json": {"schema": schema}}}
    (tool,) = openapi_tools(document({"requestBody": body}), API)
    assert tool.input_schema["properties"]["body"] == schema


@pytest.mark.parametrize(
    ("flawed", "pointer"),
    [
        (document({"parameters": [{"name": "a"}]}), "#/paths/~1x/post/parameters/0"),
        (document({"parameters": {}}), "#/paths/~1x/post/parameters"),
        (document({"parameters": [{"$ref": "other.yaml#/a"}]}), "#/paths/~1x/post/parameters/0"),
        (document({"parameters": [{"$ref": "#/components/nope"}]}), "#/components/nope"),
        (document({}, "/x/{id}"), "#/paths/~1x~1{id}"),
        (document({}, "x"), "#/paths/x must begin with /"),
        (document([], "/x"), "#/paths/~1x/post must be an object"),
        (document({"requestBody": {}}), "#/paths/~1x/post/requestBody must have content"),
        (document({"parameters": [{"name": "a", "in": "query", "style": "odd"}]}), "/parameters/0/style 'odd'"),
        (document({"parameters": [{"name": "a", "in": "path", "style": "label"}]}, "/{a}"), "'label'"),
        (document({"parameters": [{"name": "a", "in": "query", "schema": {"items": 7}}]}), "/0/schema/items"),
        (
            document({"parameters": [{"name": "a", "in": "query", "schema": {"pattern": "("}}]}),
            "#/paths/~1x/post makes",
        ),
        (document({"parameters": [{"name": "a", "in": "query", "schema": {"allOf": {}}}]}), "/schema/allOf"),
        (document({"parameters": [{"name": "a", "in": "query", "schema": {"$ref": "http://evil.net/s"}}]}), "evil.net"),
        (document({"parameters": [{"name": "a", "in": "query", "schema": {"$dynamicRef": "#a"}}]}), "$dynamicRef"),
        (document({"parameters": [{"name": "Host", "in": "header"}]}), "#/paths/~1x/post makes no tool"),
        (
            document(
                {"parameters": [{"name": "a", "in": "query", "schema": {"$ref": REF}}]},
                components={"schemas": {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": REF}}},
            ),
            "circle",
        ),
        (
            document({"parameters": [{"$ref": "#/components/parameters/A"}]})
            | {"components": {"parameters": {"A": {"$ref": "#/components/parameters/A"}}}},
            "circle",
        ),
        (
            document({"requestBody": {"content": {"multipart/form-data": {"schema": {"$ref": REF}}}}})
            | {"components": {"schemas": {"A": {"allOf": [{"$ref": REF}]}}}},
            "composed of itself",
        ),
    ],
)
def test_a_flaw_is_pointed_at(flawed: Any, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        openapi_tools(flawed, API)
    assert pointer in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "3.0 or 3.1"),
        ({"swagger": "2.0", "paths": {}}, "3.0 or 3.1"),
        ({"openapi": "3.2.0"}, "3.0 or 3.1"),
        ({"openapi": 3.0}, "3.0 or 3.1"),
        ("{broken", "no JSON"),
        ("openapi: 3.1.0\npaths: [\n", "no YAML"),
        ("- 1\n- 2\n", "3.0 or 3.1"),
        ("openapi.yaml", "pathlib"),
        ("a: !!python/object/apply:os.system ['true']\nb: 1\n", "no YAML"),
        ({"openapi": "3.1.0", "paths": {"/x": {"get": {"x-a": float("nan")}}}}, "not JSON"),
        ({"openapi": "3.1.0", "x": object()}, "not JSON"),
        ('{"a": ' + "[" * 500 + "]" * 500 + "}", "deeper than 200"),
        (" " * (MAX_DOCUMENT_BYTES + 1), "over"),
    ],
)
def test_what_is_no_document_is_refused(source: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        openapi_tools(source, API)


def spots(node: Any) -> list[tuple[Any, Any]]:
    """Every place in a document: what holds it, and where."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [spot for key, each in inside for spot in [(node, key), *spots(each)]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_broken_document_is_refused_in_no_other_way(data: st.DataObject) -> None:
    broken = shop()
    holder, key = data.draw(st.sampled_from(spots(broken)))
    holder[key] = data.draw(JSON)
    with contextlib.suppress(InvalidRequest):
        ToolRegistry(openapi_tools(broken, API))


def test_yaml_that_stands_for_more_than_it_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InvalidRequest, match="values"):
        openapi_tools("openapi: 3.1.0\n" + "\n".join(lines), API)


def test_documents_come_as_text_files_and_yaml(tmp_path: Path) -> None:
    expected = openapi_tools(shop(), API)
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(SHOP))
    for source in (path, path.read_text()):
        tools = openapi_tools(source, API)
        assert [tool.input_schema for tool in tools] == [tool.input_schema for tool in expected]
    with pytest.raises(FileNotFoundError):
        openapi_tools(tmp_path / "missing.json", API)


def test_yaml_is_read_as_json_would_be() -> None:
    text = """
openapi: "3.1.0"
paths:
  /x:
    get:
      parameters:
        - {name: day, in: query, schema: {enum: [2020-01-01, no, 12:30, 0123, 1_000, true, 1.5, 7, null]}}
      responses:
        200: {description: fine}
"""
    (tool,) = openapi_tools(text, API)
    enum = tool.input_schema["properties"]["day"]["enum"]
    assert enum == ["2020-01-01", "no", "12:30", "0123", "1_000", True, 1.5, 7, None]
    assert tool.output_schema == {"type": "null"}


def test_some_operations_can_be_picked() -> None:
    picked = openapi_tools(shop(), API, only=["users/get-one", "POST /users"])
    assert [tool.id.name for tool in picked] == ["users_get_one", "users_get_one_2"]
    assert openapi_tools(shop(), API, only=[]) == ()
    with pytest.raises(InvalidRequest, match="GET /nope"):
        openapi_tools(shop(), API, only=["GET /nope"])
    with pytest.raises(InvalidRequest, match="not one text"):
        openapi_tools(shop(), API, only="users/get-one")


def test_many_operations_are_bounded() -> None:
    many = {"openapi": "3.1.0", "paths": {f"/x{n}": {"get": {}} for n in range(5001)}}
    with pytest.raises(InvalidRequest, match="5001 operations"):
        openapi_tools(many, API)


def test_a_very_large_output_schema_is_left_out() -> None:
    huge = {"properties": {f"field_{n}": {"type": "string", "description": "x" * 50} for n in range(2000)}}
    operation = {"responses": {"200": {"content": {"application/json": {"schema": huge}}}}}
    (tool,) = openapi_tools(document(operation), API)
    assert tool.output_schema is None
