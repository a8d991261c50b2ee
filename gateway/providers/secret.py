"""Secrets that the host gives to providers, which are asked for when they are needed."""

from collections.abc import Callable
from typing import TypeAlias

Secret: TypeAlias = str | Callable[[], str]
"""The text itself, or a function that gives it each time that it is needed, so it must not wait."""


def revealed(secret: Secret) -> str:
    return secret() if callable(secret) else secret
