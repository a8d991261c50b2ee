"""Policies around the calls of tools. What is imported from here is loaded when it is first named."""

from typing import TYPE_CHECKING

from gateway.lazy import loader

if TYPE_CHECKING:
    from gateway.policies.access import AccessRules
    from gateway.policies.adaptive_breaker import AdaptiveBreaker
    from gateway.policies.base import Call, Policies, Policy, Proceed
    from gateway.policies.breaker import NoBreaker, StandardBreaker
    from gateway.policies.cache import ResultCache
    from gateway.policies.concurrency import ConcurrencyLimit
    from gateway.policies.egress_rules import EgressRules
    from gateway.policies.idempotency import CustomIdempotency, FieldIdempotency, HashIdempotency, Idempotency
    from gateway.policies.metering import Meter, UsageMeter
    from gateway.policies.rate_limit import TokenBucket
    from gateway.policies.redis_store import RedisStore
    from gateway.policies.retry import CustomRetry, ExponentialRetry, FixedRetry, NoRetry
    from gateway.policies.sql_store import SqlStore
    from gateway.policies.store import MemoryStore, Store

__all__ = [
    "AccessRules",
    "AdaptiveBreaker",
    "Call",
    "ConcurrencyLimit",
    "CustomIdempotency",
    "CustomRetry",
    "EgressRules",
    "ExponentialRetry",
    "FieldIdempotency",
    "FixedRetry",
    "HashIdempotency",
    "Idempotency",
    "MemoryStore",
    "Meter",
    "NoBreaker",
    "NoRetry",
    "Policies",
    "Policy",
    "Proceed",
    "RedisStore",
    "ResultCache",
    "SqlStore",
    "StandardBreaker",
    "Store",
    "TokenBucket",
    "UsageMeter",
]

_HOMES = {
    "AccessRules": ".access",
    "AdaptiveBreaker": ".adaptive_breaker",
    "Call": ".base",
    "ConcurrencyLimit": ".concurrency",
    "CustomIdempotency": ".idempotency",
    "CustomRetry": ".retry",
    "EgressRules": ".egress_rules",
    "ExponentialRetry": ".retry",
    "FieldIdempotency": ".idempotency",
    "FixedRetry": ".retry",
    "HashIdempotency": ".idempotency",
    "Idempotency": ".idempotency",
    "MemoryStore": ".store",
    "Meter": ".metering",
    "NoBreaker": ".breaker",
    "NoRetry": ".retry",
    "Policies": ".base",
    "Policy": ".base",
    "Proceed": ".base",
    "RedisStore": ".redis_store",
    "ResultCache": ".cache",
    "SqlStore": ".sql_store",
    "StandardBreaker": ".breaker",
    "Store": ".store",
    "TokenBucket": ".rate_limit",
    "UsageMeter": ".metering",
}

__getattr__ = loader(__name__, _HOMES)
