"""Policies around the calls of tools. What is imported from here is loaded when it is first named."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.policies.adaptive_breaker import AdaptiveBreaker
    from gateway.policies.base import Call, Policies, Policy, Proceed
    from gateway.policies.breaker import NoBreaker, StandardBreaker
    from gateway.policies.concurrency import ConcurrencyLimit
    from gateway.policies.retry import CustomRetry, ExponentialRetry, FixedRetry, NoRetry

__all__ = [
    "AdaptiveBreaker",
    "Call",
    "ConcurrencyLimit",
    "CustomRetry",
    "ExponentialRetry",
    "FixedRetry",
    "NoBreaker",
    "NoRetry",
    "Policies",
    "Policy",
    "Proceed",
    "StandardBreaker",
]

_HOMES = {
    "AdaptiveBreaker": "adaptive_breaker",
    "Call": "base",
    "ConcurrencyLimit": "concurrency",
    "CustomRetry": "retry",
    "ExponentialRetry": "retry",
    "FixedRetry": "retry",
    "NoBreaker": "breaker",
    "NoRetry": "retry",
    "Policies": "base",
    "Policy": "base",
    "Proceed": "base",
    "StandardBreaker": "breaker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
