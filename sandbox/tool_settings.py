"""Settings of the policies that stand around tools: defaults for all tools, and switches that turn some off for all."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from gateway.errors import InvalidRequest
from gateway.health import KEEP_SECONDS, SLOW_SECONDS, TIMEOUT_SECONDS
from gateway.parallel import MAX_IN_FLIGHT
from gateway.policies.base import Policies, Policy, PolicyConfig, Services
from gateway.policies.by_tool import ByTool
from gateway.policies.kinds import policies_from_json
from gateway.selection.strategies import EPSILON
from gateway.tools.registry import RegisteredTool

ORIGINAL_NAMES: Mapping[str, str] = {
    "TOOL_RETRY_ENABLED": "retry_enabled",
    "TOOL_RETRY_MAX_ATTEMPTS": "retry_max_retries",
    "TOOL_RETRY_BASE_DELAY": "retry_base_delay_seconds",
    "TOOL_RATE_LIMIT_ENABLED": "rate_limit_enabled",
    "TOOL_PARALLEL_ENABLED": "parallel_enabled",
    "TOOL_PARALLEL_MAX_CONCURRENT": "parallel_max_concurrent",
    "TOOL_CACHE_ENABLED": "cache_enabled",
    "TOOL_CACHE_TOOLS": "cache_tools",
    "SEMANTIC_CACHE_ENABLED": "cache_similar",
    "SEMANTIC_CACHE_SIMILARITY_THRESHOLD": "cache_similarity",
    "SEMANTIC_CACHE_TTL_SECONDS": "cache_ttl_seconds",
    "SEMANTIC_CACHE_MAX_ENTRIES": "cache_max_entries",
    "TOOL_CACHE_LRU_ENABLED": "cache_lru",
    "TOOL_CACHE_ACCESS_TRACKING": "cache_access_tracking",
    "TOOL_BANDIT_ENABLED": "bandit_enabled",
    "TOOL_BANDIT_EPSILON": "bandit_epsilon",
    "TOOL_BANDIT_REDIS_KEY": "bandit_redis_key",
}
"""Other names of these settings in the environment, of least weight among all places where a setting can be."""

RETRIES = 3
BASE_DELAY_SECONDS = 1.0
RATE_LIMIT: Mapping[str, float] = {"calls": 10, "per_seconds": 60}
"""What retries and rate limits are when they are switched on, and nothing more is said."""

_QUERY = "query"


class ToolSettings(BaseModel):
    """`[tools]` in `toolexec.toml`, or `TOOLEXEC_TOOLS__…`: policies of tools that choose none themselves.

    policies                  by slot: `{"retry": {"kind": "fixed", "delay_seconds": 1}}`
    retry_enabled             true: retries, as the next two say; false: no tool is tried again, whatever it chose
    retry_max_retries         retries after the first attempt (default 3); switches them on, too
    retry_base_delay_seconds  before the first; each further wait is twice as long (default 1); switches them on, too
    rate_limit_enabled        true: 10 calls a minute for each tool; false: no tool has a limit, whatever it chose
    rate_limits               limits of single tools, by id: `{"crm:lookup": {"calls": 5, "per_seconds": 60}}`
    parallel_enabled          false: the calls of a batch are made one after another (default true)
    parallel_max_concurrent   most calls of a batch under way at once, whatever it says itself (default 32, the most)
    cache_enabled             true: results of tools that only read are kept for an hour, for each user; false: no tool
                              has a cache, whatever it chose
    cache_tools               only of these tools, by id; switches it on, too. In that cache:
    cache_ttl_seconds         how long a result is kept (default 3,600)
    cache_max_entries         results of one tool (default 100)
    cache_similar             true: an argument `query` may differ a little (default false)
    cache_similarity          how much of it must agree (default 0.86)
    cache_lru                 false: what was stored first makes room, not what was unused for longest (default true)
    cache_access_tracking     false: which results were used most is not counted (default true)
    health_timeout_seconds    how long a tool is asked how it is (default 2)
    health_slow_seconds       an answer that takes longer is degraded (default 1)
    health_keep_seconds       how long an answer holds (default 30)
    bandit_enabled            false: a group takes its first tool that can be used, and learns nothing (default true)
    bandit_epsilon            how often groups without an epsilon of their own take any of their tools (default 0.1)
    bandit_redis_key          the key in the Exec's store from which `async with` takes what groups have learnt, and
                              under which closing keeps it (default none: it ends with the Exec)

    Raises InvalidRequest from `defaults` when they do not fit together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policies: dict[str, dict[str, Any]] = Field(default_factory=dict)
    retry_enabled: bool | None = None
    retry_max_retries: int | None = Field(default=None, ge=0, le=99)
    retry_base_delay_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    rate_limit_enabled: bool | None = None
    rate_limits: dict[str, dict[str, Any]] = Field(default_factory=dict)
    parallel_enabled: bool = True
    parallel_max_concurrent: int = Field(default=MAX_IN_FLIGHT, ge=1, le=MAX_IN_FLIGHT)
    cache_enabled: bool | None = None
    cache_tools: tuple[str, ...] | None = None
    cache_ttl_seconds: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    cache_max_entries: int = Field(default=100, ge=1)
    cache_similar: bool = False
    cache_similarity: float = Field(default=0.86, gt=0, le=1)
    cache_lru: bool = True
    cache_access_tracking: bool = True
    health_timeout_seconds: float = Field(default=TIMEOUT_SECONDS, gt=0, allow_inf_nan=False)
    health_slow_seconds: float = Field(default=SLOW_SECONDS, gt=0, allow_inf_nan=False)
    health_keep_seconds: float = Field(default=KEEP_SECONDS, ge=0, allow_inf_nan=False)
    bandit_enabled: bool = True
    bandit_epsilon: float = Field(default=EPSILON, ge=0, le=1)
    bandit_redis_key: str = ""

    @property
    def in_flight(self) -> int:
        """Calls of a batch that are under way at once."""
        return self.parallel_max_concurrent if self.parallel_enabled else 1

    def disabled(self) -> frozenset[str]:
        """The slots whose policies are left out for all tools."""
        switches = {"retry": self.retry_enabled, "rate_limit": self.rate_limit_enabled, "cache": self.cache_enabled}
        return frozenset(slot for slot, on in switches.items() if on is False)

    def defaults(self, given: Policies) -> Policies:
        """The policies of tools that choose none; `given` goes before what settings say. Raises InvalidRequest."""
        made = {"retry": self._retry(), "rate_limit": self._rate_limit(), "cache": self._cache()}
        chosen = {slot: config for slot, config in made.items() if config is not None}
        if twice := ", ".join(sorted(chosen.keys() & self.policies.keys())):
            raise InvalidRequest(f"setting tools: {twice} is in `policies`, and switched on too; leave one of them out")
        return given.over(Policies(**{**policies_from_json(self.policies).chosen(), **chosen}))

    def _retry(self) -> PolicyConfig | None:
        told = (self.retry_max_retries, self.retry_base_delay_seconds)
        if not self.retry_enabled and (self.retry_enabled is False or told == (None, None)):
            return None
        retries = RETRIES if self.retry_max_retries is None else self.retry_max_retries
        delay = self.retry_base_delay_seconds or BASE_DELAY_SECONDS
        return _config(
            "retry",
            "exponential",
            max_attempts=retries + 1,
            base_delay_seconds=delay,
            max_delay_seconds=delay * 2.0**retries,
            multiplier=2.0,
            jitter=0.0,
        )

    def _rate_limit(self) -> PolicyConfig | None:
        if self.rate_limit_enabled is False or not (self.rate_limit_enabled or self.rate_limits):
            return None
        tools = {tool_id: _config("rate_limit", "token_bucket", **limit) for tool_id, limit in self.rate_limits.items()}
        usual = _config("rate_limit", "token_bucket", **RATE_LIMIT) if self.rate_limit_enabled else None
        return ByTool(tools=tools, otherwise=usual)

    def _cache(self) -> PolicyConfig | None:
        if self.cache_enabled is False or not (self.cache_enabled or self.cache_tools is not None):
            return None
        told = {
            "ttl_seconds": self.cache_ttl_seconds,
            "max_entries": self.cache_max_entries,
            "scope": "user",
            "evict": "unused" if self.cache_lru else "oldest",
            "tracking": self.cache_access_tracking,
        }
        plain = _config("cache", "lru", **told)
        similar = _config("cache", "lru", similar=_QUERY, similarity=self.cache_similarity, **told)
        similar = similar if self.cache_similar else plain
        return _CacheByTool(None if self.cache_tools is None else frozenset(self.cache_tools), plain, similar)


@dataclass(frozen=True, slots=True)
class _CacheByTool:
    """A cache for some tools or all, and another for those that have a query."""

    kind: ClassVar[str] = "by_tool"

    tools: frozenset[str] | None
    plain: PolicyConfig
    with_query: PolicyConfig

    def build(self, tool: RegisteredTool, services: Services) -> Policy | None:
        if self.tools is not None and self.tools.isdisjoint((tool.id, tool.tool.id.unversioned)):
            return None
        has_query = _QUERY in tool.tool.input_schema.get("properties", {})
        return (self.with_query if has_query else self.plain).build(tool, services)


class OriginalNames(PydanticBaseSettingsSource):
    """Reads `ORIGINAL_NAMES`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {ours: os.environ[name] for name, ours in ORIGINAL_NAMES.items() if name in os.environ}
        if (tools := found.get("cache_tools")) is not None:
            found["cache_tools"] = _listed(tools)
        return {"tools": found} if found else {}


def _listed(text: str) -> Any:
    """Names in JSON, or with commas between them. Broken JSON stays text, which the setting refuses by its name."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return [name.strip() for name in text.split(",") if name.strip()]


def _config(slot: str, kind: str, **fields: Any) -> PolicyConfig:
    config: PolicyConfig = policies_from_json({slot: {"kind": kind, **fields}}).chosen()[slot]
    return config
