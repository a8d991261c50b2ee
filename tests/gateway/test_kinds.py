"""Tools described as data, and the kinds of providers behind them."""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidRequest, InvalidToolId, ToolNotFound
from gateway.providers.builtin import BUILTIN
from gateway.providers.data import KINDS, read_tools, tools_from
from gateway.providers.kinds import ProviderKind, ProviderKinds
from gateway.runner import Runner
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry

pytestmark = pytest.mark.anyio


class Documents:
    """A stand-in for a document database of somebody else's: one dictionary for each URL."""

    def __init__(self, url: str, password: str = "") -> None:
        self.url = url
        self.password = password
        self.stored: dict[str, JsonValue] = {}


class FindDocument:
    """The provider of that database."""

    def __init__(self, database: Documents, collection: str) -> None:
        self.database = database
        self.collection = collection

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        await anyio.lowlevel.checkpoint()
        return {"from": self.collection, "id": arguments["id"], "by": context.tool_id}

    async def health(self) -> None:
        """It is always there."""

    async def aclose(self) -> None:
        """Nothing is held."""


def find_document(database: Documents, tool: Any, fields: dict[str, Any]) -> Tool:
    schema = tool.get("input_schema", {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]})
    return Tool(id=tool["id"], provider=FindDocument(database, fields["collection"]), input_schema=schema)


DOCUMENTS = ProviderKind(
    make=find_document,
    fields={"collection": {"type": "string"}},
    required=("collection",),
    connect=lambda fields: Documents(**fields),
    connection_fields={"url": {"type": "string"}, "password": {"type": "string", "writeOnly": True}},
    connection_required=("url",),
)


def kinds() -> ProviderKinds:
    made = ProviderKinds(BUILTIN)
    made.register("documents", DOCUMENTS)
    return made


def provider(tool: Tool) -> FindDocument:
    assert isinstance(tool.provider, FindDocument)
    return tool.provider


CONTEXT = ToolContext(tool_id="shop:find")
FOUND = {"id": "shop:find", "provider": {"connection": "shop", "collection": "orders"}}
SHOP = {"connections": {"shop": {"type": "Documents", "url": "doc://shop"}}}


async def test_a_kind_of_ones_own_makes_tools_that_run() -> None:
    described = FOUND | {"description": "An order.", "tags": ["Read Only"], "roles": ["Sales"], "timeout_seconds": 3}
    (tool,) = tools_from(SHOP | {"tools": [described]}, kinds())
    assert (tool.description, tool.tags, tool.timeout_seconds) == ("An order.", ("read-only",), 3)
    assert tool.roles == {"sales"}
    registry = ToolRegistry([tool])
    result = await Runner(registry).run(registry.resolve("shop:find"), {"id": "7"}, CONTEXT, timeout_seconds=None)
    assert result == {"from": "orders", "id": "7", "by": "shop:find"}


def test_tools_of_one_connection_share_it_and_others_do_not() -> None:
    inline = {"type": "documents", "connection": {"url": "doc://other"}, "collection": "c"}
    tools = tools_from(
        SHOP
        | {
            "tools": [
                FOUND,
                FOUND | {"id": "shop:b"},
                {"id": "x:a", "provider": inline},
                {"id": "x:b", "provider": inline},
            ]
        },
        kinds(),
    )
    databases = [provider(tool).database for tool in tools]
    assert databases[0] is databases[1]
    assert len({id(database) for database in databases}) == 3
    assert [database.url for database in databases] == ["doc://shop"] * 2 + ["doc://other"] * 2


def test_parameters_become_the_input_schema() -> None:
    described = FOUND | {"parameters": [{"type": "integer", "name": "id", "required": True, "coerce": True}]}
    (tool,) = tools_from(SHOP | {"tools": [described]}, kinds())
    assert tool.input_schema["properties"] == {"id": {"type": "integer", "x-coerce": True}}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "the document"),
        ({}, '"tools" is missing'),
        ({"tools": [], "tool": []}, 'unexpected "tool"'),
        ({"tools": [{"id": "a"}]}, '"provider" is missing'),
        ({"tools": [FOUND | {"descripton": "x"}]}, 'unexpected "descripton"'),
        ({"tools": [FOUND]}, "tool 'shop:find': no connection 'shop'; there are none"),
        (SHOP | {"tools": [{"id": "a", "provider": {}}]}, "tool 'a': a type is missing; there are cli, documents"),
        (
            SHOP | {"tools": [{"id": "a", "provider": {"type": "mongo"}}]},
            "unknown kind of provider 'mongo'; there are cli",
        ),
        (SHOP | {"tools": [FOUND | {"provider": {"connection": "shop"}}]}, '"collection" is missing'),
        (
            SHOP | {"tools": [FOUND | {"provider": {"connection": "shop", "collection": "a", "limit": 1}}]},
            'unexpected "limit"; it takes collection',
        ),
        (
            SHOP | {"tools": [FOUND | {"provider": {"connection": "shop", "type": "sql", "collection": "a"}}]},
            "leave the tool's type out",
        ),
        ({"connections": {"s": {"url": "x"}}, "tools": []}, "connection 's': a type is missing"),
        ({"connections": {"s": {"type": "documents"}}, "tools": []}, '"url" is missing'),
        ({"connections": {"s": {"type": "cli", "url": "x"}}, "tools": []}, 'unexpected "url"'),
        ({"tools": [{"id": "a", "provider": {"type": "cli", "argv": []}}]}, "argv"),
        ({"tools": [{"id": "a", "provider": {"type": "cli", "argv": ["no-such-program-here"]}}]}, "tool 'a': "),
        (SHOP | {"tools": [FOUND | {"parameters": [], "input_schema": {}}]}, "one of them"),
    ],
)
def test_what_is_described_wrongly_says_where(document: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        tools_from(document, kinds())


def test_a_malformed_id_is_told_as_such() -> None:
    with pytest.raises(InvalidToolId):
        tools_from(SHOP | {"tools": [FOUND | {"id": "a b"}]}, kinds())


@pytest.mark.parametrize("wrong", [{"password": 1234567}, {"password": ["s3cret"]}, {"password": {"text": "s3cret"}}])
def test_a_secret_that_does_not_fit_is_not_shown(wrong: dict[str, Any]) -> None:
    document = {"connections": {"s": {"type": "documents", "url": "x", **wrong}}, "tools": []}
    with pytest.raises(InvalidRequest, match="password: does not fit") as caught:
        tools_from(document, kinds())
    assert "s3cret" not in str(caught.value)
    assert "1234567" not in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_kinds_are_found_in_any_case_and_listed() -> None:
    found = kinds()
    assert found.names() == ("cli", "documents", "dynamodb", "http", "sql")
    assert found.get("DOCUMENTS") is found.get("documents") is DOCUMENTS
    assert KINDS.names() == ("cli", "dynamodb", "http", "sql")


@pytest.mark.parametrize("name", ["cli", "SQL", "Documents", "", " "])
def test_a_name_is_registered_once_and_built_in_ones_never(name: str) -> None:
    with pytest.raises(InvalidRequest):
        kinds().register(name, DOCUMENTS)


def test_what_was_registered_can_be_removed_and_nothing_else() -> None:
    found = kinds()
    found.unregister("DOCUMENTS")
    assert "documents" not in found.names()
    for name in ("documents", "cli", "none"):
        with pytest.raises(InvalidRequest, match="was not registered"):
            found.unregister(name)
    found.register("documents", DOCUMENTS)


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> ProviderKinds:
    """With a package that names these entry points."""
    info = folder / "somebodys_tools-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-tools\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[toolexec.providers]\n" + "\n".join(lines))
    (folder / "somebodys_kinds.py").write_text(
        "from gateway.providers.kinds import ProviderKind\n"
        "graph = ProviderKind(make=lambda connection, tool, fields: None, fields={})\n"
        "broken = 7\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "somebodys_kinds", raising=False)
    return ProviderKinds(BUILTIN)


def test_an_installed_package_adds_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed(tmp_path, monkeypatch, "Graph = somebodys_kinds:graph", "broken = somebodys_kinds:broken")
    assert {"graph", "cli"} <= set(found.names())
    assert isinstance(found.get("graph"), ProviderKind)
    with pytest.raises(InvalidRequest, match="somebodys_kinds:broken is no ProviderKind"):
        found.get("broken")
    with pytest.raises(InvalidRequest, match="already"):
        found.register("graph", DOCUMENTS)
    with pytest.raises(InvalidRequest, match="was not registered"):
        found.unregister("graph")


def test_an_installed_package_cannot_take_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed(tmp_path, monkeypatch, "HTTP = somebodys_kinds:graph")
    with pytest.raises(InvalidRequest, match="somebodys_kinds:graph wants to be"):
        found.get("http2")


TOML = """
[connections.crm]
type = "http"
base_url = "http://127.0.0.1:9"
auth = { type = "bearer", token = { env = "TEST_KINDS_TOKEN" } }
headers = { X-Team = "tools" }
allow = ["10.0.0.0/8"]

[connections.shop]
type = "sql"
url = "sqlite://"
read_only = false

[connections.aws]
type = "dynamodb"
endpoint_url = "http://127.0.0.1:9"
allow = ["10.0.0.0/8"]
access_key_id = "a"
secret_access_key = { env = "TEST_KINDS_TOKEN" }

[[tools]]
id = "crm:get_user"
description = "One user."
timeout_seconds = 5
provider = { connection = "crm", method = "GET", path = "/users/{id}" }

[[tools]]
id = "crm:search"
provider = { connection = "crm", method = "POST", path = "/search", form = { q = "{query}" } }

[[tools]]
id = "shop:one"
provider = { connection = "shop", statement = "SELECT :n AS n" }
parameters = [{ type = "integer", name = "n", required = true, coerce = true }]

[[tools]]
id = "shop:any"
provider = { connection = "shop", offers = "query" }

[[tools]]
id = "shop:tables"
provider = { connection = "shop", offers = "schema" }

[[tools]]
id = "aws:get"
provider = { connection = "aws", operation = "get_item", table = "t" }

[[tools]]
id = "sys:echo"
read_only = true
provider = { type = "cli", argv = ["echo", "{text}"], env = { LANG = "C" }, output = "lines" }
"""


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEST_KINDS_TOKEN", "s3cret")
    path = tmp_path / "tools.toml"
    path.write_text(TOML)
    return path


async def test_every_built_in_kind_is_described_in_a_file(described: Path) -> None:
    tools = read_tools(described)
    registry = ToolRegistry(tools)
    runner = Runner(registry)

    async def run(tool_id: str, **arguments: JsonValue) -> JsonValue:
        return await runner.run(registry.resolve(tool_id), arguments, CONTEXT, timeout_seconds=None)

    assert await run("sys:echo", text="a  b; $HOME") == ["a  b; $HOME"]
    assert (await run("shop:one", n="3"))["rows"] == [{"n": 3}]
    assert (await run("shop:any", statement="SELECT 1 AS one"))["rows"] == [{"one": 1}]
    assert (await run("shop:tables"))["tables"] == []
    get_user = registry.resolve("crm:get_user").tool
    assert (get_user.timeout_seconds, get_user.read_only) == (5, True)
    assert set(registry.resolve("crm:search").tool.input_schema["properties"]) == {"query"}
    assert "s3cret" not in repr(tools)
    for tool in tools:
        await tool.provider.aclose()


def test_json_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps({"tools": [{"id": "sys:true", "provider": {"type": "CLI", "argv": ["true"]}}]}))
    registry = ToolRegistry(read_tools(path))
    assert registry.find("sys:true") is not None
    with pytest.raises(ToolNotFound):
        registry.resolve("sys:false")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('statement = "SELECT :n AS n"', 'statement = "SELECT 1", offers = "query"'),
        ('offers = "query"', 'offers = "rows"'),
        ('form = { q = "{query}" }', 'form = { q = "{query}" }, text = "{query}"'),
        ('operation = "get_item"', 'operation = "drop_table"'),
        ('type = "bearer"', 'type = "digest"'),
        ('env = "TEST_KINDS_TOKEN"', 'env = "TEST_KINDS_UNSET"'),
        ('argv = ["echo", "{text}"]', 'argv = "echo"'),
        ('url = "sqlite://"', 'url = "oracle://x"'),
        ("[[tools]]", "[[tools"),
    ],
)
def test_a_flaw_in_a_file_is_refused_before_anything_runs(described: Path, change: str, says: str) -> None:
    described.write_text(TOML.replace(change, says))
    with pytest.raises(InvalidRequest) as caught:
        read_tools(described)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_tools(tmp_path / "none.toml")
