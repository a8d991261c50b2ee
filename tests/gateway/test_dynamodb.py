"""DynamoDB tables as tools, on two servers that speak it."""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context import ToolContext
from gateway.errors import EgressDenied, InvalidInput, InvalidRequest, ToolFailed, ToolUnavailable
from gateway.policies.egress import Egress
from gateway.providers.dynamodb import MAX_ATTEMPTS, DynamoDb
from gateway.providers.dynamodb.operations import OPERATIONS
from gateway.providers.dynamodb.values import attribute_of, value_of
from gateway.runner import Runner
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry
from tests.dynamodb_servers import DynamoDbServer, Ministack, dynamodb_server
from tests.gateway.http_server import Answer, Seen, Server, call, response, serving

__all__ = ["dynamodb_server"]

pytestmark = pytest.mark.anyio

KEYS: dict[str, Any] = {"access_key_id": "testing", "secret_access_key": "only-for-tests"}
_names = itertools.count(1)


class Table:
    """A new table with partition key `pk` (text) and sort key `sk` (number), and all its tools."""

    def __init__(self, database: DynamoDb, name: str) -> None:
        self.name = name
        self.database = database
        self._registry = ToolRegistry(database.tools(name, namespace="t", read_only=False))
        self._runner = Runner(self._registry)

    async def __call__(self, operation: str, **arguments: Any) -> Any:
        tool = self._registry.resolve(f"t:{operation}")
        return await self._runner.run(tool, arguments, ToolContext(), timeout_seconds=None)

    async def fill(self, count: int, **more: Any) -> None:
        for start in range(0, count, 25):
            numbers = range(start, min(count, start + 25))
            await self("batch_write", put=[{"pk": "a", "sk": number, **more} for number in numbers])


@pytest.fixture
async def table(dynamodb_server: DynamoDbServer) -> AsyncIterator[Table]:
    database = DynamoDb(endpoint_url=dynamodb_server.url, **KEYS)
    name = f"table{next(_names)}"
    client = await database.client()
    await client.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "N"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    yield Table(database, name)
    await database.aclose()
    await database.aclose()


async def test_an_item_goes_in_and_comes_out_as_it_was(table: Table) -> None:
    item = {
        "pk": "ä 😀",
        "sk": 1,
        "null": None,
        "yes": True,
        "float": 1.5,
        "large": 10**37 + 1,
        "exact": {"$number": "1.1000000000000000000000000000000000001"},
        "bytes": {"$bytes": base64.b64encode(b"\0\xff").decode()},
        "texts": {"$set": ["a", "b"]},
        "numbers": {"$set": [1, 2.5]},
        "nested": {"list": [1, {"deep": [None, "x"]}], "empty": {}, "none": []},
    }
    assert await table("put_item", item=item) == {"old": None}
    assert await table("get_item", key={"pk": "ä 😀", "sk": 1}, consistent=True) == {"item": item}
    assert await table("get_item", key={"pk": "nobody", "sk": 1}) == {"item": None}


async def test_put_update_and_delete_tell_what_there_was(table: Table) -> None:
    key = {"pk": "a", "sk": 1}
    await table("put_item", item={**key, "n": 1})
    assert await table("put_item", item={**key, "n": 2}) == {"old": {**key, "n": 1}}
    changed = await table("update_item", key=key, update="SET #n = #n + :one", names={"#n": "n"}, values={":one": 1})
    assert changed == {"item": {**key, "n": 3}}
    assert await table("delete_item", key=key) == {"old": {**key, "n": 3}}
    assert await table("delete_item", key=key) == {"old": None}


async def test_a_condition_that_does_not_hold_is_final(table: Table) -> None:
    key = {"pk": "a", "sk": 1}
    await table("put_item", item=key, condition="attribute_not_exists(pk)")
    with pytest.raises(ToolFailed, match="ConditionalCheckFailed") as caught:
        await table("put_item", item=key, condition="attribute_not_exists(pk)")
    assert caught.value.retryable is False
    assert caught.value.details["type"] == "ConditionalCheckFailedException"


async def test_a_query_is_read_page_by_page_in_order(table: Table) -> None:
    await table.fill(60)
    asked: dict[str, Any] = {"key_condition": "pk = :p", "values": {":p": "a"}, "limit": 25}
    first = await table("query", **asked)
    second = await table("query", **asked, start_key=first["next_key"])
    third = await table("query", **asked, start_key=second["next_key"])
    assert [item["sk"] for page in (first, second, third) for item in page["items"]] == list(range(60))
    assert (first["count"], third["count"]) == (25, 10)
    assert third["next_key"] is None
    backwards = await table("query", **(asked | {"ascending": False, "limit": 2}))
    assert [item["sk"] for item in backwards["items"]] == [59, 58]


async def test_a_filter_does_not_cost_items_or_end_the_list(table: Table) -> None:
    await table.fill(50)
    found: list[int] = []
    start_key = None
    for _ in range(20):
        page = await table(
            "scan", filter="sk >= :n", values={":n": 40}, limit=5, **({"start_key": start_key} if start_key else {})
        )
        found += [item["sk"] for item in page["items"]]
        assert page["count"] <= 5
        start_key = page["next_key"]
        if start_key is None:
            break
    assert found == list(range(40, 50))


async def test_a_projection_gives_what_was_asked_for(table: Table) -> None:
    await table("put_item", item={"pk": "a", "sk": 1, "name": "n", "other": 2})
    page = await table("scan", attributes="pk, #n", names={"#n": "name"})
    assert page["items"] == [{"pk": "a", "name": "n"}]


async def test_a_batch_reads_in_the_order_of_its_keys(table: Table) -> None:
    await table.fill(30)
    keys = [{"pk": "a", "sk": number} for number in (7, 3, 99, 11)]
    found = await table("batch_get", keys=keys)
    assert [item and item["sk"] for item in found["items"]] == [7, 3, None, 11]
    spelt = [{"pk": "a", "sk": number} for number in (7.0, {"$number": "3.00"}, {"$number": "1.1e1"}, 7.5)]
    found = await table("batch_get", keys=spelt)
    assert [item and item["sk"] for item in found["items"]] == [7, 3, 11, None]
    assert (await table("get_item", key={"pk": "a", "sk": {"$number": "2e1"}}))["item"]["sk"] == 20


async def test_a_batch_of_26_writes_is_refused_before_anything_is_sent(table: Table) -> None:
    items = [{"pk": "a", "sk": number} for number in range(26)]
    with pytest.raises(InvalidInput, match="1 to 25 entries, not 26"):
        await table("batch_write", put=items)
    with pytest.raises(InvalidInput, match="not 0"):
        await table("batch_write")
    assert (await table("scan"))["count"] == 0
    assert await table("batch_write", put=items[:20], delete=[{"pk": "b", "sk": 1}]) == {"written": 21}


async def test_a_transaction_is_all_or_nothing(table: Table) -> None:
    await table("put_item", item={"pk": "a", "sk": 1, "n": 10})
    steps: list[Any] = [
        {"action": "update", "key": {"pk": "a", "sk": 1}, "update": "SET n = n - :x", "values": {":x": 4}},
        {"action": "put", "item": {"pk": "b", "sk": 1, "n": 4}, "condition": "attribute_not_exists(pk)"},
    ]
    assert await table("transact_write", steps=steps) == {"written": 2}
    with pytest.raises(ToolFailed) as caught:
        await table("transact_write", steps=steps)
    assert caught.value.details["type"] == "TransactionCanceledException"
    assert "ConditionalCheckFailed" in caught.value.details["reasons"]
    assert caught.value.retryable is False
    found = await table("transact_get", keys=[{"pk": "a", "sk": 1}, {"pk": "b", "sk": 1}, {"pk": "c", "sk": 1}])
    assert [item and item["n"] for item in found["items"]] == [6, 4, None]
    check = {"action": "check", "key": {"pk": "b", "sk": 1}, "condition": "n = :n", "values": {":n": 4}}
    assert await table("transact_write", steps=[check, {"action": "delete", "key": {"pk": "a", "sk": 1}}]) == {
        "written": 1
    }


@pytest.mark.parametrize(
    "step",
    [
        {"action": "put", "key": {"pk": "a"}},
        {"action": "erase", "key": {"pk": "a"}},
        {"action": "delete", "key": {"pk": "a"}, "TableName": "another"},
        {"action": "check", "key": {"pk": "a"}},
    ],
)
async def test_a_malformed_step_never_leaves(table: Table, step: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await table("transact_write", steps=[step])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (10**38 + 1, "38 digits"),
        ({"$number": "1" * 39}, "38 digits"),
        ({"$number": "1E126"}, "38 digits"),
        ({"$number": "NaN"}, "has no NaN"),
        ({"$number": "Infinity"}, "has no Infinity"),
        ({"$number": "ten"}, "is no number"),
        ({"$number": 10}, "as text"),
        ({"$bytes": "%"}, "base64"),
        ({"$set": []}, "at least one"),
        ({"$set": ["a", 1]}, "one kind"),
        ({"$set": [None]}, "one kind"),
    ],
)
async def test_what_dynamodb_has_no_form_for_is_said_with_its_place(table: Table, value: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        await table("put_item", item={"pk": "a", "sk": 1, "list": [{"x": value}]})
    assert str(caught.value).startswith("list[0].x: ")
    assert (await table("scan"))["count"] == 0


async def test_an_expression_that_makes_no_sense_is_the_callers(table: Table) -> None:
    for arguments in ({"key_condition": "pk ~ :p", "values": {":p": 1}}, {"key_condition": "pk = :p"}):
        with pytest.raises((InvalidInput, ToolFailed)) as caught:
            await table("query", **arguments)
        assert caught.value.retryable is False


async def test_a_table_that_is_not_there_is_told_by_health_and_calls(table: Table) -> None:
    await table.database.tool("t:get", "get_item", table.name).provider.health()
    missing = table.database.tool("t:get", "get_item", "missing")
    with pytest.raises(ToolFailed, match="ResourceNotFoundException"):
        await missing.provider.health()
    with pytest.raises(ToolFailed, match="ResourceNotFoundException"):
        await missing.provider.call({"key": {"pk": "a", "sk": 1}, "consistent": False}, ToolContext())


async def test_a_server_that_is_not_there_is_unavailable_and_keeps_the_keys_secret() -> None:
    database = DynamoDb(endpoint_url="http://127.0.0.1:9", **KEYS)
    with pytest.raises(ToolUnavailable) as caught:
        await database.tool("t:get", "get_item", "t").provider.health()
    assert "only-for-tests" not in f"{caught.value} {caught.value.details} {database.settings}"
    await database.aclose()


async def test_a_call_that_is_given_up_is_over_and_the_next_one_works(table: Table) -> None:
    await table.fill(25)
    with anyio.move_on_after(0.0001):
        await table("scan")
    assert (await table("scan"))["count"] == 25


async def test_a_server_that_went_away_and_came_back(table: Table, dynamodb_server: DynamoDbServer) -> None:
    if not isinstance(dynamodb_server, Ministack):
        return  # one of them is enough, and moto takes seconds to start
    dynamodb_server.stop()
    try:
        with pytest.raises(ToolUnavailable):
            await table("scan")
    finally:
        dynamodb_server.start()
    with pytest.raises(ToolFailed, match="ResourceNotFound"):  # it keeps nothing
        await table("scan")


def test_only_reading_unless_asked_for_more() -> None:
    database = DynamoDb(**KEYS)
    reading = {tool.id.name for tool in database.tools("orders")}
    assert reading == {"get_item", "query", "scan", "batch_get", "transact_get"}
    assert all(tool.read_only for tool in database.tools("orders"))
    everything = database.tools("orders", namespace="shop", read_only=False)
    assert {tool.id.name for tool in everything} == set(OPERATIONS)
    assert {tool.resource for tool in everything} == {"dynamodb/orders"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"access_key_id": "a"}, "come together"),
        ({"max_connections": 0}, "above 0"),
        ({"read_timeout_seconds": -1.0}, "above 0"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        DynamoDb(**options)


def test_operations_are_known_by_name() -> None:
    with pytest.raises(InvalidRequest, match="there are get_item, query"):
        DynamoDb(**KEYS).tool("t:x", "truncate", "orders")


# Above 2**53 a float that is written in decimal is read as the whole number that this text names.
_floats = st.floats(-(2**53), 2**53).filter(lambda number: number == 0 or abs(number) > 1e-120)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | _floats | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: not key.startswith("$")), inner),
    max_leaves=20,
)


@given(_json)
def test_every_json_value_survives_the_way_there_and_back(value: Any) -> None:
    assert value_of(attribute_of(value)) == value


def said(body: str, status: str = "200 OK") -> bytes:
    return response(body, status, "application/x-amz-json-1.0")


def refusal(code: str) -> bytes:
    kind = f"com.amazonaws.dynamodb.v20120810#{code}"
    return said(json.dumps({"__type": kind, "message": "slow down"}), "400 Bad Request")


def answering(*answers: bytes) -> Answer:
    """The answers in their order, the last one again and again."""
    left = list(answers)

    async def answer(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return answer


@asynccontextmanager
async def canned(operation: str, *answers: bytes) -> AsyncIterator[tuple[Server, Tool]]:
    async with serving(answering(*answers)) as server:
        database = DynamoDb(endpoint_url=server.url, **KEYS)
        try:
            yield server, database.tool("t:x", operation, "orders")
        finally:
            await database.aclose()


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
async def test_a_throttled_request_is_tried_again_and_then_may_work_later(code: str) -> None:
    key = {"key": {"pk": "a"}}
    async with canned("get_item", refusal(code), said('{"Item": {"pk": {"S": "a"}}}')) as (server, tool):
        assert await call(tool, key) == {"item": {"pk": "a"}}
        assert len(server.seen) == 2
    async with canned("get_item", refusal(code)) as (server, tool):
        with pytest.raises(ToolUnavailable, match=code) as caught:
            await call(tool, key)
        assert caught.value.retryable
        assert len(server.seen) == MAX_ATTEMPTS


# Where it connects to


def leading_to(*addresses: str, allow: Iterable[str] = ()) -> Egress:
    async def resolve(_host: str, _port: int) -> Iterable[str]:
        return addresses

    return Egress(tuple(allow), resolve)


@asynccontextmanager
async def reaching(endpoint: str, egress: Egress) -> AsyncIterator[Tool]:
    database = DynamoDb(endpoint_url=endpoint, egress=egress, **KEYS)
    try:
        yield database.tool("t:x", "get_item", "orders")
    finally:
        await database.aclose()


FOUND = said('{"Item": {"pk": {"S": "a"}}}')
KEY = {"key": {"pk": "a"}}


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "::1", "::ffff:10.0.0.5"])
async def test_an_endpoint_whose_name_leads_inside_is_refused_unless_listed(address: str) -> None:
    async with reaching("http://db.example.com:8000", leading_to(address)) as tool:
        with anyio.fail_after(5), pytest.raises(EgressDenied, match="not public"):
            await call(tool, KEY)
        with pytest.raises(EgressDenied):
            await tool.provider.health()


async def test_the_endpoint_of_aws_is_checked_too() -> None:
    database = DynamoDb(egress=leading_to("127.0.0.1"), **KEYS)
    with pytest.raises(EgressDenied, match=r"dynamodb\.us-west-2\.amazonaws\.com:443"):
        await database.tool("t:x", "get_item", "orders").provider.health()
    await database.aclose()


async def test_what_the_environment_makes_of_the_endpoint_is_the_operators_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this region the client says one host and asks another."""
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    database = DynamoDb(region="us-gov-west-1", egress=leading_to("127.0.0.1"), **KEYS)
    with pytest.raises(EgressDenied, match="loopback"):
        await database.tool("t:x", "get_item", "orders").provider.health()
    await database.aclose()
    monkeypatch.delenv("AWS_USE_FIPS_ENDPOINT")
    async with serving(answering(FOUND)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", server.url)
        database = DynamoDb(**KEYS)
        assert await call(database.tool("t:x", "get_item", "orders"), KEY) == {"item": {"pk": "a"}}
        await database.aclose()


async def test_the_name_of_an_endpoint_is_resolved_once_for_a_connection() -> None:
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["203.0.113.9", "127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    async with serving(answering(FOUND)) as server:
        endpoint = f"http://db.example.com:{server.port}"
        async with reaching(endpoint, Egress(("127.0.0.1",), resolve)) as tool:
            for _ in range(2):
                assert await call(tool, KEY) == {"item": {"pk": "a"}}
            assert (asked, server.connections) == (["db.example.com"], 1)
            await tool.provider.aclose()
            with pytest.raises(EgressDenied):
                await call(tool, KEY)
        assert server.connections == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "db.example.com"])
async def test_an_endpoint_does_not_lead_elsewhere(host: str) -> None:
    async with serving(answering(FOUND)) as other:
        moved = response("", "307 Temporary Redirect", Location=f"http://{host}:{other.port}/")
        listed = leading_to("127.0.0.1", allow=["127.0.0.1", host])
        async with serving(answering(moved)) as server, reaching(server.url, listed) as tool:
            with anyio.fail_after(5), pytest.raises(EgressDenied):
                await call(tool, KEY)
        assert (other.connections, len(server.seen)) == (0, 1)


async def test_a_name_that_cannot_be_resolved_is_unavailable() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        raise OSError("no such name")

    async with reaching("http://db.example.com", Egress(resolve=resolve)) as tool:
        with pytest.raises(ToolUnavailable):
            await call(tool, KEY)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with canned("get_item", FOUND) as (_, tool):
        assert await call(tool, KEY) == {"item": {"pk": "a"}}


def test_an_endpoint_in_disguise_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        DynamoDb(endpoint_url="http://0x7f.1:8000", **KEYS)


async def test_what_a_batch_left_undone_is_asked_for_again() -> None:
    items = {"put": [{"pk": "a"}, {"pk": "b"}]}
    second = {"orders": [{"PutRequest": {"Item": {"pk": {"S": "b"}}}}]}
    undone, done = (said(json.dumps({"UnprocessedItems": left})) for left in (second, {}))
    async with canned("batch_write", undone, done) as (server, tool):
        assert await call(tool, items) == {"written": 2}
        assert json.loads(server.seen[1].body)["RequestItems"] == second
    async with canned("batch_write", undone) as (_, tool):
        with pytest.raises(ToolUnavailable, match="a part of the batch undone"):
            await call(tool, items)
