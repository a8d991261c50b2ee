"""Allow-lists in front of tools, and that databases and MCP servers are dialled at checked addresses only."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context import ToolContext
from gateway.errors import EgressDenied, InvalidRequest, ToolError, ToolUnavailable
from gateway.policies.base import Policies
from gateway.policies.cache import ResultCache
from gateway.policies.destinations import Connects, Destination
from gateway.policies.egress import Egress
from gateway.policies.egress_rules import EgressRules, RuledEgress
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.policies.retry import FixedRetry
from gateway.providers.dynamodb import DynamoDb
from gateway.providers.http import HttpApi
from gateway.providers.mcp import HttpServer, McpSource, StdioServer
from gateway.providers.openapi import openapi_tools
from gateway.providers.sql import SqlDatabase
from gateway.providers.sql.dial import NamedContext
from gateway.providers.sql.guard import read
from gateway.tools.model import Tool
from sandbox import AsyncExec
from tests.engines import Postgres, postgres
from tests.gateway.http_server import Seen, Server, response, serving
from tests.gateway.test_mcp_hostile import Canned, canned

__all__ = ["postgres"]

pytestmark = pytest.mark.anyio


def leading_to(*addresses: str, allow: Iterable[str] = ()) -> Egress:
    async def resolve(_host: str, _port: int) -> Iterable[str]:
        return addresses

    return Egress(tuple(allow), resolve)


async def destination(tool: Tool, **arguments: Any) -> Destination:
    assert isinstance(tool.provider, Connects)
    (found,) = await tool.provider.destinations(arguments)
    return found


def permits(rules: EgressRules, place: Destination) -> bool:
    try:
        RuledEgress(rules).check(place)
    except EgressDenied:
        return False
    return True


# What providers say


async def test_an_http_tool_goes_to_its_api() -> None:
    tool = HttpApi(base_url="https://API.example.com:8443/v1").tool("crm:add", "POST", "/users")
    place = await destination(tool)
    assert place == Destination(scheme="https", host="api.example.com", port=8443, operations=frozenset({"post"}))


async def test_so_does_an_operation_of_a_document() -> None:
    document = {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": {"/x": {"get": {"operationId": "x", "responses": {"200": {"description": "ok"}}}}},
    }
    (tool,) = openapi_tools(document, HttpApi(base_url="http://api.example.com"))
    assert (await destination(tool)).port == 80


async def test_a_database_tool_says_tables_and_verbs() -> None:
    database = SqlDatabase("postgres://reader@db.example.com/shop", read_only=False)
    place = await destination(database.tool("o:find", "SELECT * FROM orders JOIN crm.people USING (id)"))
    assert place == Destination(
        scheme="postgresql",
        host="db.example.com",
        port=5432,
        database="shop",
        tables=frozenset({"orders", "crm.people"}),
        operations=frozenset({"select"}),
    )
    free = await destination(database.query_tool("o:query"), statement="DELETE FROM orders")
    assert (free.tables, free.operations) == (frozenset({"orders"}), frozenset({"delete"}))
    unread = await destination(database.tool("o:tidy", "VACUUM orders"))
    assert (unread.tables, unread.operations) == (None, None)
    described = database.schema_tool("o:schema")
    assert (await destination(described)).tables is None
    assert (await destination(described, schema="crm", table="people")).tables == frozenset({"crm.people"})


async def test_files_and_sockets_are_of_this_machine() -> None:
    file = await destination(SqlDatabase("sqlite:////data/shop.db").query_tool("q"), statement="SELECT 1")
    assert (file.host, file.database, str(file)) == ("", "shop.db", "sqlite shop.db")
    socket = SqlDatabase("postgresql://u@/shop?host=/run/postgresql").query_tool("q")
    assert (await destination(socket, statement="SELECT 1")).host == "localhost"


async def test_dynamodb_goes_where_its_client_does() -> None:
    keys: dict[str, Any] = {"access_key_id": "testing", "secret_access_key": "only-for-tests"}
    places: tuple[tuple[dict[str, Any], str], ...] = (
        ({"region": "eu-west-1"}, "dynamodb.eu-west-1.amazonaws.com"),
        ({"endpoint_url": "http://127.0.0.1:8000"}, "127.0.0.1"),
    )
    for options, host in places:
        database = DynamoDb(**keys, **options)
        place = await destination(database.tool("t:get", "get_item", "orders"))
        assert (place.host, place.tables, place.operations) == (host, frozenset({"orders"}), frozenset({"get_item"}))
        await database.aclose()


# Which tables a statement names


@pytest.mark.parametrize(
    ("statement", "dialect", "tables"),
    [
        ("SELECT 1", "postgres", set()),
        ("TABLE orders", "postgres", {"orders"}),
        ("SELECT * FROM ONLY Orders o, public.Users", "postgres", {"orders", "public.users"}),
        ('SELECT * FROM "Orders"', "postgres", {"Orders"}),
        ("SELECT * FROM Orders", "mysql", {"Orders"}),
        ("SELECT * FROM `a.b`.`c`", "mysql", {"a.b.c"}),
        ('SELECT * FROM "Orders"', "sqlite", {"orders"}),
        ("SELECT (SELECT max(x) FROM a) FROM b WHERE EXISTS (SELECT 1 FROM c)", "postgres", {"a", "b", "c"}),
        ("SELECT 1 FROM a UNION SELECT 2 FROM b", "postgres", {"a", "b"}),
        ("SELECT 5 IN secret", "sqlite", {"secret"}),
        ("SELECT 5 IN main.secret", "sqlite", {"main.secret"}),
        ("SELECT * FROM generate_series(1, 3) g", "postgres", set()),
        ("WITH x AS (SELECT * FROM orders) SELECT * FROM x", "postgres", {"orders"}),
        ("WITH x AS (SELECT 1), y AS (SELECT * FROM x) SELECT * FROM y", "postgres", set()),
        # A name that a WITH defines is the table everywhere that the WITH does not reach.
        ("SELECT * FROM s, (WITH s AS (SELECT 1) SELECT * FROM s) q", "postgres", {"s"}),
        ("WITH s AS (SELECT * FROM s) SELECT * FROM s", "postgres", {"s"}),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", "postgres", {"b"}),
        ("WITH s AS (SELECT 1) SELECT * FROM public.s", "postgres", {"public.s"}),
        ('WITH s AS (SELECT 1) SELECT * FROM "s"', "postgres", {"s"}),
        ('WITH Orders AS (SELECT 1) SELECT * FROM "Orders"', "postgres", {"Orders"}),
        ("WITH S AS (SELECT 1) SELECT * FROM s", "mysql", {"s"}),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r", "postgres", set()),
        # In statements that write, every name counts: targets are tables whatever a WITH says.
        ("WITH s AS (SELECT 1) DELETE FROM s", "sqlite", {"s"}),
        ("INSERT INTO a (x) SELECT x FROM b", "postgres", {"a", "b"}),
        ("UPDATE a SET x = 1 FROM b WHERE a.id = b.id", "postgres", {"a", "b"}),
        ("WITH d AS (DELETE FROM a RETURNING *) SELECT * FROM d", "postgres", {"a", "d"}),
    ],
)
def test_tables_of_a_statement(statement: str, dialect: str, tables: set[str]) -> None:
    assert read(statement, dialect).tables == frozenset(tables)


@pytest.mark.parametrize(
    ("statement", "verbs"),
    [
        ("SELECT 1", {"select"}),
        ("VALUES (1)", {"select"}),
        ("INSERT INTO a (x) VALUES (1)", {"insert"}),
        ("INSERT INTO a (x) VALUES (1) ON CONFLICT (x) DO UPDATE SET y = 1", {"insert", "update"}),
        ("INSERT INTO a (x) SELECT 1", {"insert", "select"}),
        ("DELETE FROM a", {"delete"}),
        ("WITH d AS (DELETE FROM a RETURNING *) SELECT * FROM d", {"delete", "select"}),
    ],
)
def test_verbs_of_a_statement(statement: str, verbs: set[str]) -> None:
    assert read(statement, "postgres").verbs == frozenset(verbs)


@given(
    names=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4),
    defined=st.sets(st.sampled_from(["a", "b", "c", "d"]), max_size=2),
)
def test_a_with_hides_the_names_it_defines_and_no_others(names: list[str], defined: set[str]) -> None:
    ctes = ", ".join(f"{name} AS (SELECT 1 AS n)" for name in sorted(defined))
    clause = f"WITH {ctes} " if defined else ""
    statement = clause + " UNION ALL ".join(f"SELECT n FROM {name}" for name in names)
    assert read(statement, "postgres").tables == frozenset(set(names) - defined)


# What rules let through


ORDERS = Destination(
    scheme="postgresql",
    host="db.example.com",
    port=5432,
    database="shop",
    tables=frozenset({"orders", "sales.items"}),
    operations=frozenset({"select"}),
)


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ({}, False),
        ({"allow": ["postgresql://db.example.com"]}, True),
        ({"allow": ["*.example.com:5432"]}, True),
        ({"allow": ["https://db.example.com"]}, False),
        ({"allow": ["postgresql://db.example.com:5433"]}, False),
        ({"databases": ["shop"]}, True),
        ({"databases": ["shop2"]}, False),
        ({"tables": ["orders", "sales.items"]}, True),
        ({"tables": ["orders", "sales.*"]}, True),
        ({"tables": ["orders", "items"]}, False),
        ({"tables": ["*"]}, False),
        ({"tables": ["*", "*.*"]}, True),
        ({"tables": ["order", "sales.items"]}, False),
        ({"operations": ["SELECT"]}, True),
        ({"operations": ["insert"]}, False),
    ],
)
def test_rules(rules: dict[str, Any], allowed: bool) -> None:
    hosts = {"allow": ("db.example.com",)} if rules else {}
    assert permits(EgressRules(**(hosts | rules)), ORDERS) is allowed


def test_what_is_not_known_is_not_listed() -> None:
    unread = Destination(scheme="mysql", host="db", port=3306, tables=None, operations=None)
    assert permits(EgressRules(allow=("db",)), unread)
    assert not permits(EgressRules(allow=("db",), tables=frozenset({"*"})), unread)
    assert not permits(EgressRules(allow=("db",), operations=frozenset({"select"})), unread)


def test_a_private_address_is_listed_as_an_address() -> None:
    place = Destination(scheme="http", host="10.1.2.3", port=80, operations=frozenset({"get"}))
    assert not permits(EgressRules(allow=("*",)), place)
    assert permits(EgressRules(allow=("10.0.0.0/8",)), place)
    metadata = Destination(scheme="http", host="169.254.169.254", port=80, operations=frozenset({"get"}))
    assert not permits(EgressRules(allow=("*", "10.0.0.0/8")), metadata)


@pytest.mark.parametrize(
    "options",
    [
        {"allow": "a.example.com"},
        {"allow": ["https://"]},
        {"tables": "orders"},
        {"tables": [""]},
        {"undeclared": "ask"},
    ],
)
def test_rules_that_cannot_be_read_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        EgressRules(**options)


def test_rules_are_written_and_read() -> None:
    written = {"egress": {"kind": "rules", "allow": ["api.example.com"], "tables": ["orders"]}}
    rules = policies_from_json(written)
    assert rules.egress == EgressRules(allow=("api.example.com",), tables=frozenset({"orders"}))
    assert policies_from_json(policies_json(rules)) == rules


# In calls


async def test_a_call_is_refused_before_anything_is_sent() -> None:
    async def answer(_seen: Seen, writer: Any) -> None:
        writer.write(response(b"1"))

    async with serving(answer) as server, AsyncExec(workers=1, pool_size=1) as exec:
        api = HttpApi(base_url=server.url)
        for name, rules in (
            ("shut", EgressRules(allow=("https://api.example.com",))),
            ("reading", EgressRules(allow=("127.0.0.1",), operations=frozenset({"get"}))),
            ("open", EgressRules(allow=("127.0.0.1",), operations=frozenset({"post"}))),
        ):
            exec.register(api.tool(f"api:{name}", "POST", "/", policies=Policies(egress=rules)))
        code = """
        found = []
        for tool in (tools.api.shut, tools.api.reading, tools.api.open):
            try:
                found.append(tool())
            except tools.ToolError as error:
                found.append(error.code)
        return found
        """
        result = await exec.execute_code(code)
        assert result.value == ["egress_denied", "egress_denied", 1]
        assert [call.attempts for call in result.tool_calls] == [0, 0, 1]
        assert len(server.seen) == 1


@asynccontextmanager
async def moving(status: str = "302 Found") -> AsyncIterator[tuple[HttpApi, Server, Server]]:
    """An API that may go to another server, to which its own redirects after one failure; and both."""

    async def arrive(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b'"arrived"'))

    async with serving(arrive) as other:

        async def move(seen: Seen, writer: asyncio.StreamWriter) -> None:
            fails = seen.target == "/fails" and len(server.seen) % 2 == 1
            moved = response("", status, Location=f"{other.url}/there")
            writer.write(response("", "503 Service Unavailable") if fails else moved)

        async with serving(move) as server:
            api = HttpApi(base_url=server.url, egress=Egress(("127.0.0.1",)), max_redirects=2)
            yield api, server, other


async def test_every_hop_of_a_redirect_keeps_to_the_rules_of_its_tool() -> None:
    async with moving() as (api, server, other), AsyncExec() as exec:
        narrow, wide = EgressRules(allow=(server.url,)), EgressRules(allow=(server.url, other.url))
        for name, rules in (("narrow", narrow), ("wide", wide), ("free", None)):
            exec.register(api.tool(f"api:{name}", "GET", "/", policies=Policies(egress=rules)))
        with pytest.raises(EgressDenied, match="loopback") as hop:
            await exec.run_tool("api:narrow")
        assert other.connections == 0
        assert hop.value.details["target"] == f"127.0.0.1:{other.port}"
        assert await exec.run_tool("api:wide") == "arrived"
        assert await exec.run_tool("api:free") == "arrived"
        with pytest.raises(EgressDenied):  # also where a connection is open
            await exec.run_tool("api:narrow")
        assert len(other.seen) == 2


async def test_calls_at_once_have_each_their_own_rules() -> None:
    async with moving() as (api, server, _), AsyncExec() as exec:
        narrow = EgressRules(allow=(server.url,))
        exec.register(
            api.tool("api:narrow", "GET", "/", policies=Policies(egress=narrow)), api.tool("api:free", "GET", "/")
        )
        calls = [exec.run_tool(name) for _ in range(10) for name in ("api:narrow", "api:free")]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert found[1::2] == ["arrived"] * 10
        assert all(isinstance(each, EgressDenied) for each in found[::2])


async def test_hops_keep_to_the_rules_behind_a_cache_and_a_retry() -> None:
    async with moving() as (api, server, other), AsyncExec() as exec:
        inner: dict[str, Any] = {"cache": ResultCache(), "retry": FixedRetry(delay_seconds=0.0)}
        for name, allow in (("narrow", (server.url,)), ("wide", (server.url, other.url))):
            policies = Policies(egress=EgressRules(allow=allow), **inner)
            exec.register(api.tool(f"api:{name}", "GET", "/fails", policies=policies))
        for _ in range(2):
            with pytest.raises(EgressDenied):
                await exec.run_tool("api:narrow")
        assert (len(server.seen), other.connections) == (4, 0)
        assert [await exec.run_tool("api:wide") for _ in range(2)] == ["arrived"] * 2
        assert len(other.seen) == 1


@pytest.mark.parametrize(("status", "arrives"), [("303 See Other", False), ("307 Temporary Redirect", True)])
async def test_what_a_hop_does_there_is_held_by_the_rules_too(status: str, arrives: bool) -> None:
    async with moving(status) as (api, _, other), AsyncExec() as exec:
        rules = EgressRules(allow=("127.0.0.1",), operations=frozenset({"post"}))
        exec.register(api.tool("api:add", "POST", "/", policies=Policies(egress=rules)))
        if arrives:
            assert await exec.run_tool("api:add") == "arrived"
        else:
            with pytest.raises(EgressDenied, match="operation 'get'"):
                await exec.run_tool("api:add")
        assert other.connections == arrives


async def test_a_tool_that_another_calls_keeps_to_its_own_rules_alone() -> None:
    async with moving() as (api, _, _), AsyncExec() as exec:
        exec.register(api.tool("api:free", "GET", "/"))

        @exec.tool(name="outer", policies=Policies(egress=EgressRules(undeclared="allow")))
        async def outer(context: ToolContext) -> Any:
            assert context.call_tool is not None
            return await context.call_tool("api:free", {})

        assert await exec.run_tool("outer") == "arrived"


async def test_a_callers_statement_keeps_to_the_tables_that_are_listed(tmp_path: Any) -> None:
    database = SqlDatabase(f"sqlite:///{tmp_path}/shop.db", read_only=False)
    rules = EgressRules(tables=frozenset({"orders"}), operations=frozenset({"select", "insert"}))
    async with AsyncExec() as exec:
        exec.register(
            database.tool("shop:make", "CREATE TABLE orders (id INTEGER)"),
            database.tool("shop:hide", "CREATE TABLE secret (id INTEGER)"),
            database.query_tool("shop:query", policies=Policies(egress=rules)),
        )
        await exec.run_tool("shop:make")
        await exec.run_tool("shop:hide")

        async def run(statement: str) -> Any:
            return await exec.run_tool("shop:query", {"statement": statement})

        await run("INSERT INTO orders VALUES (1)")
        assert (await run("SELECT * FROM orders"))["rows"] == [{"id": 1}]
        for statement in (
            "SELECT * FROM secret",
            "SELECT * FROM main.orders",
            "SELECT 1 IN secret FROM orders",
            "SELECT * FROM orders UNION SELECT * FROM secret",
            "SELECT * FROM (WITH secret AS (SELECT 1) SELECT * FROM orders), secret",
            "DELETE FROM orders",
        ):
            with pytest.raises(EgressDenied):
                await run(statement)


async def test_who_does_not_say_where_it_goes_is_refused_unless_allowed() -> None:
    async with AsyncExec() as exec:
        for name, rules in (("no", EgressRules()), ("yes", EgressRules(undeclared="allow"))):
            exec.tool(name=name, policies=Policies(egress=rules))(lambda: 1)
        assert await exec.run_tool("yes") == 1
        with pytest.raises(EgressDenied, match="does not say"):
            await exec.run_tool("no")
    source = McpSource("docs", StdioServer(["true"]))
    assert not isinstance(source._provider("t", has_schema=False), Connects)
    web = McpSource("docs", HttpServer("https://docs.example.com/mcp"))._provider("t", has_schema=False)
    assert isinstance(web, Connects)
    assert (await web.destinations({}))[0].operations == frozenset({"tools/call"})


# Dialling


@pytest.mark.parametrize("url", ["postgresql://u@db.example.com/d", "mysql://u@db.example.com/d"])
@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "::1", "::ffff:10.0.0.5"])
async def test_a_database_whose_name_leads_inside_is_refused_unless_listed(url: str, address: str) -> None:
    database = SqlDatabase(url, tls="off", egress=leading_to(address))
    with pytest.raises(EgressDenied, match="not public"):
        await database.health()
    await database.aclose()


async def test_the_address_that_was_checked_is_the_one_that_is_dialled(postgres: Postgres) -> None:
    """The name is looked up once for a connection; what it leads to a moment later changes nothing."""
    asked: list[str] = []
    password = postgres.url.split(":")[2].split("@")[0]

    async def resolve(host: str, port: int) -> list[str]:
        assert port == postgres.port
        asked.append(host)
        return ["203.0.113.9", "127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    url = postgres.url.replace("127.0.0.1", "db.example.com")
    allowed = Egress(("127.0.0.1",), resolve)
    database = SqlDatabase(url, password=password, tls="off", egress=allowed, pool_size=1)
    await database.health()
    await database.health()
    assert asked == ["db.example.com"]
    await database.aclose()
    with pytest.raises(EgressDenied):
        await database.health()
    await database.aclose()


async def test_tls_is_verified_against_the_name_and_not_the_address(postgres: Postgres) -> None:
    password = postgres.url.split(":")[2].split("@")[0]
    for name, fits in (("localhost", True), ("db.example.com", False)):
        url = postgres.url.replace("127.0.0.1", name)
        egress = leading_to("127.0.0.1", allow=["127.0.0.1"])
        database = SqlDatabase(url, password=password, tls="verify", ca_file=postgres.ca_file, egress=egress)
        if fits:
            await database.health()
        else:
            with pytest.raises(ToolError, match="certificate"):
                await database.health()
        await database.aclose()


def test_a_context_knows_one_name_whatever_it_is_told() -> None:
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.name = "db.example.com"
    made = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="192.0.2.1")
    assert made.server_hostname == "db.example.com"


async def test_an_mcp_server_whose_name_leads_inside_is_refused_unless_listed() -> None:
    async with canned() as (service, _):
        port = int(service.seen[0][1]["host"].rpartition(":")[2])
        url = f"http://tools.example.com:{port}/mcp"
        before = len(service.seen)
        with pytest.raises(EgressDenied, match=r"127\.0\.0\.1"):
            await listed(HttpServer(url, egress=leading_to("127.0.0.1")))
        assert len(service.seen) == before
        listed_now = await listed(HttpServer(url, egress=leading_to("127.0.0.1", allow=["127.0.0.0/8"])))
        assert listed_now == ["test:go"]


async def test_every_connection_to_an_mcp_server_is_checked_anew() -> None:
    async with canned() as (service, _):
        port = int(service.seen[0][1]["host"].rpartition(":")[2])
        inside = False

        async def resolve(_host: str, _port: int) -> list[str]:
            return ["10.0.0.1"] if inside else ["127.0.0.1"]

        server = HttpServer(f"http://tools.example.com:{port}/mcp", egress=Egress(("127.0.0.1",), resolve))
        async with AsyncExec() as exec:
            await exec.connect(McpSource("test", server))
            assert await exec.run_tool("test:go") == "went"
            inside = True
            service.answer = redirect(service)  # the answer ends its connection, and leads to the same origin
            with pytest.raises((EgressDenied, ToolUnavailable), match=r"10\.0\.0\.1"):
                await exec.run_tool("test:go")


def redirect(service: Canned) -> bytes:
    host = service.seen[-1][1]["host"]
    return f"HTTP/1.1 307 x\r\nlocation: http://{host}/mcp\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()


async def listed(server: HttpServer) -> list[str]:
    """The tools of a server that was connected to, or what went wrong."""
    async with AsyncExec() as exec:
        await exec.connect(McpSource("test", server))
        return [tool.id for tool in exec.registry.tools()]
