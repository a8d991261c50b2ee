"""Policies as data, by slot and kind: found by entry point, so a new one is one file and one line of pyproject.toml."""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from gateway.base import JsonValue
from gateway.errors import InvalidRequest
from gateway.policies.base import SLOTS, Policies, PolicyConfig

GROUP = "toolexec.policies"
"""A package of yours adds a kind by naming the class of its config here, as `slot.kind`."""


def policies_from_json(written: Mapping[str, JsonValue]) -> Policies:
    """`{slot: {"kind": …, the config's fields}}`. Raises InvalidRequest for what is unknown or does not fit."""
    if unknown := ", ".join(sorted(set(written) - set(SLOTS))):
        raise InvalidRequest(f"unknown policy {unknown}; there are {', '.join(SLOTS)}")
    return Policies(**{slot: _config(slot, config) for slot, config in written.items()})


def policies_json(policies: Policies) -> dict[str, JsonValue]:
    """What `policies_from_json` reads. Raises InvalidRequest for a policy of your own, which is no data."""
    return {slot: _written(slot, choice) for slot, choice in policies.chosen().items()}


def kinds_of(slot: str) -> tuple[str, ...]:
    """The kinds that can stand in this slot, sorted."""
    return tuple(sorted(_found().get(slot, {})))


def config_class(slot: str, kind: str) -> type[PolicyConfig]:
    """The class of its config. Raises InvalidRequest for a kind that is not there."""
    entry = _found().get(slot, {}).get(kind.lower())
    if entry is None:
        raise InvalidRequest(f"unknown kind {kind!r} of policy {slot}; there are {', '.join(kinds_of(slot)) or 'none'}")
    found: type[PolicyConfig] = entry.load()
    return found


@cache
def _found() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in entry_points(group=GROUP):
        slot, _, kind = entry.name.partition(".")
        if found.setdefault(slot, {}).setdefault(kind.lower(), entry).value != entry.value:
            raise InvalidRequest(f"{entry.value} wants to be the policy {entry.name!r}, which is taken")
    return found


def _config(slot: str, written: JsonValue) -> PolicyConfig:
    if not isinstance(written, Mapping) or not isinstance(written.get("kind"), str):
        raise InvalidRequest(f"the policy {slot} must be an object with a `kind`, one of {', '.join(kinds_of(slot))}")
    given = {name: value for name, value in written.items() if name != "kind"}
    kind = config_class(slot, written["kind"])
    return _checked(slot, kind, given)


def _checked(slot: str, kind: type[PolicyConfig], given: Mapping[str, JsonValue]) -> PolicyConfig:
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config  # noqa: PLC0415 - rarely needed

    try:
        adapter = TypeAdapter(with_config(ConfigDict(extra="forbid", strict=False))(kind))
        found: PolicyConfig = adapter.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"the policy {slot} of kind {kind.kind}: {where}: {first['msg']}") from error
    return found


def _written(slot: str, choice: Any) -> JsonValue:
    if not isinstance(choice, PolicyConfig) or choice.kind not in kinds_of(slot):
        raise InvalidRequest(f"the policy {slot} is an object of your own, which cannot be written down; use a config")
    told = {one.name: getattr(choice, one.name) for one in fields(choice)}  # type: ignore[arg-type]  # configs are dataclasses
    return {"kind": choice.kind, **{name: _plain(value) for name, value in told.items()}}


def _plain(value: Any) -> JsonValue:
    return sorted(value) if isinstance(value, frozenset) else list(value) if isinstance(value, tuple) else value
