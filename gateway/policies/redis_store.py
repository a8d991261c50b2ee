"""A store in Redis, or what speaks its protocol. Steps that read and write are Lua, and time is the server's."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from gateway.errors import InvalidRequest, MissingExtra, ToolUnavailable
from gateway.policies.store import OPERATION_SECONDS, TOLERANCE, WHAT, Taken

try:
    import redis.asyncio as aioredis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ModuleNotFoundError as exc:
    raise MissingExtra("stores in Redis", "redis") from exc

_MAX_CONNECTIONS = 20
_SCAN_COUNT = 500

_SET_IF_ABSENT = """
local found = redis.call('GET', KEYS[1])
if found then return found end
if ARGV[2] == '' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return false
"""

_REPLACE = """
local found = redis.call('GET', KEYS[1])
if found ~= ARGV[1] then return found == ARGV[2] and 1 or 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""

_DELETE_EXPECTED = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

_TAKE = """
local tokens, capacity, refill, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local available = capacity
if kept[1] then
  available = math.min(capacity, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * refill)
end
local missing = tokens - available
if missing > tolerance then return {string.format('%.17g', missing / refill), string.format('%.17g', available)} end
available = math.min(capacity, math.max(0, -missing))
if tokens ~= 0 then
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', available), 'at', string.format('%.17g', now))
  redis.call('PEXPIRE', KEYS[1], math.ceil((capacity - available) / refill * 1000) + 1000)
end
return {'0', string.format('%.17g', available)}
"""

_T = TypeVar("_T")


class RedisStore:
    """A store in the Redis of this URL (`redis://`, `rediss://` with TLS, `unix://`), for one event loop at a time.

    Keys begin with `prefix`. A value is as safe as the server makes it: for idempotency it must not evict
    (`maxmemory-policy noeviction`) and should write to disk (`appendonly yes`). Raises InvalidRequest, without showing
    the URL.
    """

    def __init__(self, url: str, *, prefix: str = "toolexec:") -> None:
        if not prefix:
            raise InvalidRequest("prefix must not be empty: other keys of that Redis are nobody's business")
        try:
            aioredis.ConnectionPool.from_url(url)
        except (ValueError, TypeError):
            raise InvalidRequest(
                "the Redis URL cannot be read; write it as redis://user:password@host:6379/0"
            ) from None
        self._url = url
        self._prefix = prefix
        self._client: aioredis.Redis | None = None
        self._scripts: dict[str, Any] = {}

    async def get(self, key: str) -> bytes | None:
        found: Any = await self._do(lambda client: client.get(self._prefix + key))
        return None if found is None else bytes(found)

    async def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        px = None if ttl_seconds is None else _milliseconds(ttl_seconds)
        await self._do(lambda client: client.set(self._prefix + key, value, px=px))

    async def set_if_absent(self, key: str, value: bytes, ttl_seconds: float | None) -> bytes | None:
        found: bytes | None = await self._run(_SET_IF_ABSENT, key, value, _ttl(ttl_seconds))
        # After a connection was lost the step is made once more, and may find what it wrote itself.
        return None if found == value else found

    async def replace(self, key: str, expected: bytes, value: bytes, ttl_seconds: float | None) -> bool:
        return bool(await self._run(_REPLACE, key, expected, value, _ttl(ttl_seconds)))

    async def delete(self, key: str, expected: bytes | None = None) -> bool:
        if expected is None:
            return bool(await self._do(lambda client: client.delete(self._prefix + key)))
        return bool(await self._run(_DELETE_EXPECTED, key, expected))

    async def clear(self, prefix: str) -> int:
        pattern = "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in self._prefix + prefix) + "*"
        cursor, gone = 0, 0
        while True:
            cursor, keys = await self._do(_scan(cursor, pattern))
            if keys:
                gone += await self._do(_unlink(keys))
            if not cursor:
                return gone

    async def take(self, key: str, tokens: float, capacity: float, refill_per_second: float) -> Taken:
        told = await self._run(_TAKE, key, repr(tokens), repr(capacity), repr(refill_per_second), repr(TOLERANCE))
        return Taken(float(told[0]), float(told[1]))

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _run(self, script: str, key: str, *arguments: bytes | str) -> Any:
        async def run(client: aioredis.Redis) -> Any:
            return await self._scripts[script](keys=[self._prefix + key], args=arguments, client=client)

        return await self._do(run)

    async def _do(self, step: Callable[[aioredis.Redis], Awaitable[_T]]) -> _T:
        try:
            with anyio.fail_after(OPERATION_SECONDS):
                return await step(self._opened())
        except (RedisError, OSError, TimeoutError) as exc:
            raise ToolUnavailable(WHAT, f"Redis did not do what was asked ({type(exc).__name__})") from exc

    def _opened(self) -> aioredis.Redis:
        if self._client is None:
            pool = aioredis.BlockingConnectionPool.from_url(
                self._url,
                max_connections=_MAX_CONNECTIONS,
                timeout=OPERATION_SECONDS,
                socket_timeout=OPERATION_SECONDS,
                socket_connect_timeout=OPERATION_SECONDS,
                retry=Retry(NoBackoff(), 1),
            )
            self._client = aioredis.Redis.from_pool(pool)
            scripts = (_SET_IF_ABSENT, _REPLACE, _DELETE_EXPECTED, _TAKE)
            self._scripts = {script: self._client.register_script(script) for script in scripts}
        return self._client


def _scan(cursor: int, pattern: str) -> Callable[[aioredis.Redis], Awaitable[Any]]:
    return lambda client: client.scan(cursor, match=pattern, count=_SCAN_COUNT)


def _unlink(keys: list[bytes]) -> Callable[[aioredis.Redis], Awaitable[int]]:
    return lambda client: client.unlink(*keys)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _ttl(seconds: float | None) -> str:
    return "" if seconds is None else str(_milliseconds(seconds))
