"""Kinds of providers that can be described as data, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gateway.errors import InvalidRequest
from gateway.tools.model import Tool

GROUP = "toolexec.providers"
"""A package of yours adds a kind by naming a ProviderKind in this entry-point group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderKind:
    """How tools of one kind are made from data.

    `make(connection, tool, fields)` gives a tool: `tool` are the fields of a ToolSpec that were described (always `id`,
    a ToolId), of which it takes what it needs; the rest is filled in afterwards. `fields` is the provider's table, and
    fits the JSON Schema properties `fields`. With `connect`, `connection` is what it made of the connection's table,
    which fits `connection_fields`; without, it is None. Neither may connect to anything yet. What does not fit is shown
    in the error, unless its property is `writeOnly`: say so of secrets.
    """

    make: Callable[[Any, Mapping[str, Any], dict[str, Any]], Tool]
    fields: Mapping[str, Any]
    required: tuple[str, ...] = ()
    connect: Callable[[dict[str, Any]], Any] | None = None
    connection_fields: Mapping[str, Any] = field(default_factory=dict)
    connection_required: tuple[str, ...] = ()


class ProviderKinds:
    """Kinds by name, in any case: the built-in ones, those of installed packages, and those registered here."""

    def __init__(self, builtin: Mapping[str, ProviderKind]) -> None:
        self._builtin = {name.lower(): kind for name, kind in builtin.items()}
        self._registered: dict[str, ProviderKind] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self._builtin, *self._installed, *self._registered}))

    def register(self, name: str, kind: ProviderKind) -> None:
        """Raises InvalidRequest for a name that is taken or empty."""
        if not name.strip():
            raise InvalidRequest("a kind of provider needs a name")
        if name.lower() in self.names():
            raise InvalidRequest(f"there is a kind of provider {name.lower()!r} already; choose another name")
        self._registered[name.lower()] = kind

    def unregister(self, name: str) -> None:
        """Remove what `register` added. Raises InvalidRequest for any other name."""
        if name.lower() not in self._registered:
            raise InvalidRequest(f"{name.lower()!r} was not registered here, so it cannot be removed")
        del self._registered[name.lower()]

    def get(self, name: str) -> ProviderKind:
        """Raises InvalidRequest for an unknown name, and for an installed kind that is none."""
        key = name.lower()
        found = self._builtin.get(key) or self._registered.get(key)
        if found is None and key in self._installed:
            found = self._installed[key].load()
            if not isinstance(found, ProviderKind):
                raise InvalidRequest(f"{self._installed[key].value} is no ProviderKind; mend the package that names it")
        if found is None:
            raise InvalidRequest(f"unknown kind of provider {name!r}; there are {', '.join(self.names())}")
        return found

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=GROUP):
            if found.setdefault(entry.name.lower(), entry).value != entry.value or entry.name.lower() in self._builtin:
                raise InvalidRequest(f"{entry.value} wants to be a kind of provider {entry.name!r}, which is taken")
        return found
