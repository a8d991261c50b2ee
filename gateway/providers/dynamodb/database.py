"""Amazon DynamoDB tables as tools: the six operations on items, batches and transactions."""

import copy
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import anyio

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidRequest, MissingExtra
from gateway.policies.destinations import Destination
from gateway.policies.egress import Egress, origin
from gateway.providers.dynamodb.operations import OPERATIONS
from gateway.providers.secret import Secret, revealed
from gateway.tools.model import Tool, ToolFields, ToolId
from gateway.tracing import request_span

if TYPE_CHECKING:
    from gateway.providers.dynamodb.dial import Dial

MAX_ATTEMPTS = 3
"""How often one request is tried while DynamoDB throttles or fails, in the client itself."""

NOWHERE = Egress()


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoDbSettings:
    """Where DynamoDB is and who asks. Without keys the client looks for them as every AWS program does.

    `endpoint_url` is for DynamoDB elsewhere than at AWS. Keys may be functions; they are asked when it connects.
    """

    region: str = "us-west-2"
    endpoint_url: str | None = None
    access_key_id: Secret | None = field(default=None, repr=False)
    secret_access_key: Secret | None = field(default=None, repr=False)
    session_token: Secret | None = field(default=None, repr=False)
    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 30.0
    max_connections: int = 10

    def __post_init__(self) -> None:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise InvalidRequest("access_key_id and secret_access_key come together; give both or neither")
        for name in ("connect_timeout_seconds", "read_timeout_seconds", "max_connections"):
            if not getattr(self, name) > 0:
                raise InvalidRequest(f"{name} must be above 0, not {getattr(self, name)}")


class DynamoDb:
    """One client, connected when it is first used, for any number of tools.

    `egress` is what may be connected to beside its endpoint: a private address that the endpoint's name leads to.
    Proxies of the environment are not used.
    """

    def __init__(
        self, settings: DynamoDbSettings | None = None, /, *, egress: Egress = NOWHERE, **options: Any
    ) -> None:
        if settings is not None and options:
            raise InvalidRequest("give DynamoDbSettings or its fields, not both")
        self.settings = settings or DynamoDbSettings(**options)
        url = self.settings.endpoint_url
        self._egress = egress if url is None else egress.with_url(url)
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._opening = anyio.Lock()

    def tool(self, tool_id: str, operation: str, table: str, **options: Unpack[ToolFields]) -> Tool:
        """A tool that does one operation on one table.

        `operation` is one of those in `OPERATIONS`. Transactions, too, stay in their table. Raises InvalidRequest,
        InvalidToolId.
        """
        kind = OPERATIONS.get(operation)
        if kind is None:
            raise InvalidRequest(f"unknown operation {operation!r}; there are {', '.join(OPERATIONS)}")
        fields: dict[str, Any] = {
            "description": kind.description.format(table=table),
            "read_only": kind.read_only,
            "idempotent": kind.idempotent,
            "destructive": kind.destructive,
            "open_world": False,
            "resource": f"dynamodb/{table}",
            **options,
        }
        return Tool(
            id=ToolId.parse(tool_id),
            provider=DynamoDbProvider(self, operation, table),
            input_schema=copy.deepcopy(kind.input_schema),
            output_schema=copy.deepcopy(kind.output_schema),
            **fields,
        )

    def tools(self, table: str, *, namespace: str = "", read_only: bool = True) -> tuple[Tool, ...]:
        """A tool for each operation on one table, named after it; only those that read, unless `read_only` is False."""
        kinds = (name for name, kind in OPERATIONS.items() if kind.read_only or not read_only)
        space = namespace or table
        return tuple(self.tool(f"{space}:{name}", name, table) for name in kinds)

    async def client(self) -> Any:
        """The client, connected. Raises MissingExtra."""
        async with self._opening:
            if self._client is None:
                self._client = await self._connected()
        return self._client

    async def aclose(self) -> None:
        async with self._opening:
            self._client = None
            await self._stack.aclose()

    async def _connected(self) -> Any:
        """A client that connects only to what egress permits. Raises MissingExtra."""
        try:
            from gateway.providers.dynamodb.dial import Dial  # noqa: PLC0415 - the extra, and half a second
        except ImportError as exc:
            raise MissingExtra("DynamoDB tools", "dynamodb") from exc
        dial = Dial(self._egress, self.settings.connect_timeout_seconds)
        client = await self._stack.enter_async_context(self._new_client(dial))
        client.meta.events.register("before-send.dynamodb", dial.before_send)
        return client

    def _new_client(self, dial: "Dial") -> Any:
        from aiobotocore.session import get_session  # noqa: PLC0415 - as above

        settings = self.settings
        return get_session().create_client(
            "dynamodb",
            region_name=settings.region,
            endpoint_url=settings.endpoint_url,
            aws_access_key_id=_told(settings.access_key_id),
            aws_secret_access_key=_told(settings.secret_access_key),
            aws_session_token=_told(settings.session_token),
            config=_config(settings, dial),
        )


class DynamoDbProvider:
    """One operation on one table."""

    def __init__(self, database: DynamoDb, operation: str, table: str) -> None:
        self._database = database
        self._operation_name = operation
        self._operation = OPERATIONS[operation]
        self._table = table

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        about = {"db.system.name": "aws.dynamodb", "db.namespace": self._database.settings.region}
        with request_span(context, "db", about | {"db.collection.name": self._table}):
            return await self._asked(lambda client: self._operation.run(client, self._table, arguments))

    async def destinations(self, arguments: Mapping[str, JsonValue]) -> tuple[Destination, ...]:
        """The client says where it goes: the region, and what the environment makes of it, decide."""
        del arguments
        scheme, host, port = origin((await self._database.client()).meta.endpoint_url)
        used = frozenset({self._table})
        return (
            Destination(scheme=scheme, host=host, port=port, tables=used, operations=frozenset({self._operation_name})),
        )

    async def health(self) -> None:
        """Describe the table."""
        await self._asked(lambda client: client.describe_table(TableName=self._table))

    async def aclose(self) -> None:
        await self._database.aclose()

    async def _asked(self, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        client = await self._database.client()
        from gateway.providers.dynamodb.errors import translated  # noqa: PLC0415 - needs botocore, which is there now

        with translated(f"DynamoDB table {self._table!r}"):
            return await ask(client)


def _told(secret: Secret | None) -> str | None:
    return None if secret is None else revealed(secret)


def _config(settings: DynamoDbSettings, dial: "Dial") -> Any:
    """All requests go to the one endpoint that the client names, by connections that `dial` makes."""
    from aiobotocore.config import AioConfig  # noqa: PLC0415 - as above

    from gateway.providers.dynamodb.dial import Session  # noqa: PLC0415

    return AioConfig(
        connect_timeout=settings.connect_timeout_seconds,
        read_timeout=settings.read_timeout_seconds,
        max_pool_connections=settings.max_connections,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        http_session_cls=Session,
        connector_args={"resolver": dial, "socket_factory": dial.socket, "use_dns_cache": False},
        proxies={},
        account_id_endpoint_mode="disabled",
        endpoint_discovery_enabled=False,
    )
