"""DynamoDB's operations: what each takes, what it gives, and how the client is asked."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from operator import itemgetter
from typing import Any, TypeAlias

import anyio

from gateway.base import JsonValue
from gateway.errors import InvalidInput, ToolUnavailable
from gateway.providers.dynamodb.values import attributes_of, item_of

MAX_ITEMS = 1000
"""Most items that one query or scan gives."""

MAX_PAGES = 20
"""Most pages that one query or scan reads: with a filter a page may give nothing."""

MAX_BATCH_READS = 100
MAX_BATCH_WRITES = 25
MAX_TRANSACTION = 100
MAX_ROUNDS = 6
"""How often what a batch left undone is asked for again, after 50 ms, 100 ms, and so on."""

Arguments: TypeAlias = Mapping[str, JsonValue]
Run: TypeAlias = Callable[[Any, str, Arguments], Awaitable[JsonValue]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation as a tool. `description` names the {table}."""

    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    run: Run
    read_only: bool = False
    idempotent: bool | None = None
    destructive: bool | None = None


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _list(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


_ITEM = {"type": "object", "minProperties": 1, "description": "attributes by name"}
_KEY = {**_ITEM, "description": "the primary key: its attributes by name"}
_MAYBE_ITEM = {"type": ["object", "null"]}
_FLAG = {"type": "boolean", "default": False}
_TEXT = {"type": "string", "minLength": 1, "maxLength": 4096}
_WORDS = {
    "names": {"type": "object", "additionalProperties": {"type": "string"}, "description": "#name: attribute"},
    "values": {"type": "object", "description": ":value: what it stands for, in expressions"},
}
_CONDITION = {"condition": {**_TEXT, "description": "write only if this expression holds"}, **_WORDS}
_READING = {
    "filter": {**_TEXT, "description": "keep only items for which this expression holds"},
    "attributes": {**_TEXT, "description": "projection: the attributes wanted, with commas"},
    "index": _TEXT,
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_ITEMS, "default": 100},
    "start_key": {"type": ["object", "null"], "description": "next_key of the call before"},
    "consistent": _FLAG,
    **_WORDS,
}
_PAGE = _object(
    ("items", "count", "next_key"),
    items={"type": "array", "items": {"type": "object"}},
    count={"type": "integer"},
    next_key=_MAYBE_ITEM,
)
_ONE = _object(("item",), item=_MAYBE_ITEM)
_SEVERAL = _object(("items",), items={"type": "array", "items": _MAYBE_ITEM})
_DONE = _object(("written",), written={"type": "integer"})
_OLD = _object(("old",), old=_MAYBE_ITEM)


def _words(arguments: Arguments) -> dict[str, Any]:
    """The names and values that expressions use."""
    found: dict[str, Any] = {}
    if arguments.get("names"):
        found["ExpressionAttributeNames"] = arguments["names"]
    if arguments.get("values"):
        found["ExpressionAttributeValues"] = attributes_of(arguments["values"])
    return found


def _options(arguments: Arguments, **wire_names: str) -> dict[str, Any]:
    """Those arguments that were given, under their names on the wire."""
    return {wire: arguments[name] for name, wire in wire_names.items() if arguments.get(name) is not None}


def _maybe(attributes: Any) -> JsonValue:
    return item_of(attributes) if attributes else None


async def _get_item(client: Any, table: str, arguments: Arguments) -> JsonValue:
    answer = await client.get_item(
        TableName=table,
        Key=attributes_of(arguments["key"]),
        ConsistentRead=arguments["consistent"],
        **_options(arguments, attributes="ProjectionExpression", names="ExpressionAttributeNames"),
    )
    return {"item": _maybe(answer.get("Item"))}


async def _put_item(client: Any, table: str, arguments: Arguments) -> JsonValue:
    item = {"Item": attributes_of(arguments["item"])}
    return {"old": await _written(client.put_item, table, arguments, item, gives="ALL_OLD")}


async def _update_item(client: Any, table: str, arguments: Arguments) -> JsonValue:
    change = {"Key": attributes_of(arguments["key"]), "UpdateExpression": arguments["update"]}
    return {"item": await _written(client.update_item, table, arguments, change, gives="ALL_NEW")}


async def _delete_item(client: Any, table: str, arguments: Arguments) -> JsonValue:
    key = {"Key": attributes_of(arguments["key"])}
    return {"old": await _written(client.delete_item, table, arguments, key, gives="ALL_OLD")}


async def _written(
    write: Callable[..., Awaitable[Any]], table: str, arguments: Arguments, what: dict[str, Any], *, gives: str
) -> JsonValue:
    condition = _options(arguments, condition="ConditionExpression")
    answer = await write(TableName=table, ReturnValues=gives, **what, **condition, **_words(arguments))
    return _maybe(answer.get("Attributes"))


async def _query(client: Any, table: str, arguments: Arguments) -> JsonValue:
    asked = _reading(table, arguments)
    asked |= {"KeyConditionExpression": arguments["key_condition"], "ScanIndexForward": arguments["ascending"]}
    return await _page(client.query, asked, arguments)


async def _scan(client: Any, table: str, arguments: Arguments) -> JsonValue:
    return await _page(client.scan, _reading(table, arguments), arguments)


def _reading(table: str, arguments: Arguments) -> dict[str, Any]:
    options = _options(arguments, filter="FilterExpression", attributes="ProjectionExpression", index="IndexName")
    return {"TableName": table, "ConsistentRead": arguments["consistent"], **options, **_words(arguments)}


async def _page(read: Callable[..., Awaitable[Any]], asked: dict[str, Any], arguments: Arguments) -> JsonValue:
    """Read pages until there are `limit` items. Each is asked for no more than are still wanted, so none is cut off."""
    items: list[JsonValue] = []
    start_key = arguments.get("start_key")
    next_key: Any = attributes_of(start_key) if start_key else None
    for _ in range(MAX_PAGES):
        start = {"ExclusiveStartKey": next_key} if next_key else {}
        answer = await read(Limit=arguments["limit"] - len(items), **asked, **start)
        items += map(item_of, answer.get("Items", ()))
        next_key = answer.get("LastEvaluatedKey")
        if not next_key or len(items) >= arguments["limit"]:
            break
    return {"items": items, "count": len(items), "next_key": _maybe(next_key)}


async def _batch_get(client: Any, table: str, arguments: Arguments) -> JsonValue:
    keys = [attributes_of(key, f"keys[{index}]") for index, key in enumerate(arguments["keys"])]
    wanted: dict[str, Any] = {table: {"Keys": keys, "ConsistentRead": arguments["consistent"]}}
    found: list[dict[str, Any]] = []
    async for left in _rounds(wanted, table):
        answer = await client.batch_get_item(RequestItems=left)
        found += answer.get("Responses", {}).get(table, ())
        left.clear()
        left.update(answer.get("UnprocessedKeys") or {})
    by_key = {_frozen({name: item[name] for name in keys[0]}): item_of(item) for item in found}
    return {"items": [by_key.get(_frozen(key)) for key in keys]}


async def _batch_write(client: Any, table: str, arguments: Arguments) -> JsonValue:
    puts = [{"PutRequest": {"Item": attributes_of(item)}} for item in arguments["put"]]
    deletes = [{"DeleteRequest": {"Key": attributes_of(key)}} for key in arguments["delete"]]
    requests = [*puts, *deletes]
    if not 1 <= len(requests) <= MAX_BATCH_WRITES:
        raise InvalidInput(f"put and delete together must have 1 to {MAX_BATCH_WRITES} entries, not {len(requests)}")
    async for left in _rounds({table: requests}, table):
        answer = await client.batch_write_item(RequestItems=left)
        left.clear()
        left.update(answer.get("UnprocessedItems") or {})
    return {"written": len(requests)}


async def _rounds(left: dict[str, Any], table: str) -> AsyncIterator[dict[str, Any]]:
    """Give what is left to ask for until nothing is; whoever asks takes out what was done."""
    for number in range(MAX_ROUNDS):
        if number:
            await anyio.sleep(0.05 * 2 ** (number - 1))
        yield left
        if not left:
            return
    raise ToolUnavailable(f"DynamoDB table {table!r}", "it left a part of the batch undone")


async def _transact_get(client: Any, table: str, arguments: Arguments) -> JsonValue:
    gets = [{"Get": {"TableName": table, "Key": attributes_of(key)}} for key in arguments["keys"]]
    answer = await client.transact_get_items(TransactItems=gets)
    return {"items": [_maybe(one.get("Item")) for one in answer.get("Responses", ())]}


async def _transact_write(client: Any, table: str, arguments: Arguments) -> JsonValue:
    steps = [_transact_step(table, step) for step in arguments["steps"]]
    await client.transact_write_items(TransactItems=steps, **_options(arguments, token="ClientRequestToken"))  # noqa: S106
    return {"written": sum("ConditionCheck" not in step for step in steps)}


def _transact_step(table: str, step: Arguments) -> dict[str, Any]:
    options = {**_options(step, condition="ConditionExpression"), **_words(step), "TableName": table}
    if "item" in step:
        return {"Put": {"Item": attributes_of(step["item"]), **options}}
    key = attributes_of(step["key"])
    if "update" in step:
        return {"Update": {"Key": key, "UpdateExpression": step["update"], **options}}
    kind = "ConditionCheck" if step["action"] == "check" else "Delete"
    return {kind: {"Key": key, **options}}


def _frozen(key: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(((name, _comparable(attribute)) for name, attribute in key.items()), key=itemgetter(0)))


def _comparable(attribute: Mapping[str, Any]) -> Any:
    """Numbers by what they are and not by how they are written: the server may write them otherwise."""
    return Decimal(attribute["N"]) if "N" in attribute else str(attribute)


def _step(action: str, required: tuple[str, ...], **fields: Any) -> dict[str, Any]:
    return _object(("action", *required), action={"const": action}, **fields)


_STEPS = {
    "oneOf": [
        _step("put", ("item",), item=_ITEM, **_CONDITION),
        _step("update", ("key", "update"), key=_KEY, update=_TEXT, **_CONDITION),
        _step("delete", ("key",), key=_KEY, **_CONDITION),
        _step("check", ("key", "condition"), key=_KEY, **_CONDITION),
    ]
}

OPERATIONS: Mapping[str, Operation] = {
    "get_item": Operation(
        description="Get one item of {table} by its key; item is null when there is none.",
        input_schema=_object(
            ("key",), key=_KEY, consistent=_FLAG, attributes=_READING["attributes"], names=_WORDS["names"]
        ),
        output_schema=_ONE,
        run=_get_item,
        read_only=True,
    ),
    "query": Operation(
        description="The items of {table} under one partition key, in the order of their sort keys.",
        input_schema=_object(
            ("key_condition",), key_condition=_TEXT, ascending={"type": "boolean", "default": True}, **_READING
        ),
        output_schema=_PAGE,
        run=_query,
        read_only=True,
    ),
    "scan": Operation(
        description="Items of {table}, whatever their keys; reads the whole table page by page.",
        input_schema=_object((), **_READING),
        output_schema=_PAGE,
        run=_scan,
        read_only=True,
    ),
    "put_item": Operation(
        description="Write one item of {table}; old is what it replaced, null when nothing.",
        input_schema=_object(("item",), item=_ITEM, **_CONDITION),
        output_schema=_OLD,
        run=_put_item,
        idempotent=True,
        destructive=True,
    ),
    "update_item": Operation(
        description="Change attributes of one item of {table} by an update expression; item is the new one.",
        input_schema=_object(("key", "update"), key=_KEY, update=_TEXT, **_CONDITION),
        output_schema=_ONE,
        run=_update_item,
        destructive=True,
    ),
    "delete_item": Operation(
        description="Delete one item of {table}; old is what was there, null when nothing.",
        input_schema=_object(("key",), key=_KEY, **_CONDITION),
        output_schema=_OLD,
        run=_delete_item,
        idempotent=True,
        destructive=True,
    ),
    "batch_get": Operation(
        description="Get up to 100 items of {table} by their keys, in the order of the keys.",
        input_schema=_object(("keys",), keys=_list(_KEY, MAX_BATCH_READS), consistent=_FLAG),
        output_schema=_SEVERAL,
        run=_batch_get,
        read_only=True,
    ),
    "batch_write": Operation(
        description="Put and delete up to 25 items of {table}, each for itself.",
        input_schema=_object(
            (),
            put={"type": "array", "items": _ITEM, "default": []},
            delete={"type": "array", "items": _KEY, "default": []},
        ),
        output_schema=_DONE,
        run=_batch_write,
        idempotent=True,
        destructive=True,
    ),
    "transact_get": Operation(
        description="Get up to 100 items of {table} as they were at one moment.",
        input_schema=_object(("keys",), keys=_list(_KEY, MAX_TRANSACTION)),
        output_schema=_SEVERAL,
        run=_transact_get,
        read_only=True,
    ),
    "transact_write": Operation(
        description="Write up to 100 items of {table}, all or none. With a token the same steps are done once only.",
        input_schema=_object(
            ("steps",),
            steps=_list(_STEPS, MAX_TRANSACTION),
            token={"type": "string", "minLength": 1, "maxLength": 36},
        ),
        output_schema=_DONE,
        run=_transact_write,
        destructive=True,
    ),
}
"""Operations by name."""
