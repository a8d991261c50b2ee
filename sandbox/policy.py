"""Turns profile, request and capabilities into a decision. Pure, and it fails closed: whatever is not plainly permitted
is refused, with the reason and the fix, and nothing weaker is ever chosen in its place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import BackendUnavailable, InvalidRequest, PolicyDenied
from runtimes.base import Capabilities
from runtimes.limits import SHARED, LimitName, Limits
from sandbox.profile import Profile

PREFERENCE = ("unsafe", "wasm", "gvisor", "docker")
"""Among permitted backends the first of these is taken, then any other by name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What policy needs to know of a request. `backend` is None for any; `limits` has the defaults filled in."""

    language: str
    backend: str | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class Decision:
    """The backend to use, the limits to hold it to, and which of them will be held."""

    backend: str
    limits: Limits
    enforced: frozenset[LimitName]


def decide(
    profile: Profile, wanted: Wanted, capabilities: Mapping[str, Capabilities], *, allow_unsafe: bool
) -> Decision:
    """Choose a backend. Raise InvalidRequest (unknown backend or language), PolicyDenied (the profile forbids it) or
    BackendUnavailable (it is permitted, but cannot be used here)."""
    candidates = _candidates(wanted, capabilities)
    refusals = {kind: _refusal(profile, wanted, capabilities[kind], allow_unsafe=allow_unsafe) for kind in candidates}
    for kind in candidates:
        if refusals[kind] is None:
            held = SHARED | capabilities[kind].enforces
            return Decision(kind, wanted.limits, frozenset(name for name in wanted.limits.asked() if name in held))
    raise _why_none(profile, wanted, capabilities, [error for error in refusals.values() if error is not None])


def _candidates(wanted: Wanted, capabilities: Mapping[str, Capabilities]) -> Sequence[str]:
    """Backends by preference: those asked for, that speak the language or cannot say."""
    if wanted.backend is not None and wanted.backend not in capabilities:
        raise InvalidRequest(f"unknown backend {wanted.backend!r}; there are {', '.join(sorted(capabilities))}")
    kinds = [wanted.backend] if wanted.backend is not None else by_preference(capabilities)
    usable_languages = {language for kind in kinds for language in capabilities[kind].languages}
    if wanted.language not in usable_languages and any(capabilities[kind].usable for kind in kinds):
        known = ", ".join(sorted(usable_languages)) or "none"
        raise InvalidRequest(f"no backend here runs language {wanted.language!r}; there are {known}")
    return kinds


def by_preference(kinds: Iterable[str]) -> list[str]:
    """Backends in the order in which they are considered: none after the one that is taken changes the decision."""
    return sorted(kinds, key=_rank)


def _rank(kind: str) -> tuple[int, str]:
    return (PREFERENCE.index(kind) if kind in PREFERENCE else len(PREFERENCE), kind)


def _refusal(
    profile: Profile, wanted: Wanted, found: Capabilities, *, allow_unsafe: bool
) -> PolicyDenied | BackendUnavailable | None:
    """Why this backend may not or cannot be used; None when it may. What is forbidden is said before what is broken."""
    if not found.usable:
        return BackendUnavailable(found.kind, found.reason, found.fix)
    if found.boundaries < profile.floor:
        return PolicyDenied(
            f"profile {profile.name!r} wants {profile.floor} boundaries between guest and host, and backend "
            f"{found.kind!r} has {found.boundaries}",
            "Use a stronger backend, or a profile with a lower floor",
        )
    if found.boundaries == 0 and not allow_unsafe:
        return PolicyDenied(
            f"backend {found.kind!r} does not isolate, and unsafe backends are off",
            "The operator can allow them with Exec(allow_unsafe=True); then profile 'dev' may use it",
        )
    if wanted.language not in found.languages:
        return PolicyDenied(
            f"backend {found.kind!r} does not run language {wanted.language!r}", "Use a backend that does"
        )
    return _unheld(profile, wanted, found)


def _unheld(profile: Profile, wanted: Wanted, found: Capabilities) -> PolicyDenied | None:
    unheld = sorted(set(wanted.limits.asked()) - SHARED - found.enforces)
    if not unheld or not profile.strict:
        return None
    return PolicyDenied(
        f"backend {found.kind!r} cannot hold {', '.join(unheld)} here, and profile {profile.name!r} demands it",
        "Leave the limit out, or use a backend that holds it (`toolexec doctor` lists them)",
    )


def _why_none(
    profile: Profile,
    wanted: Wanted,
    capabilities: Mapping[str, Capabilities],
    refusals: Iterable[PolicyDenied | BackendUnavailable],
) -> PolicyDenied | BackendUnavailable:
    errors = list(refusals)
    if len(errors) == 1:
        return errors[0]
    if not capabilities:
        return BackendUnavailable("any", "no backend is installed", "Reinstall toolexec; `toolexec doctor` shows them")
    reasons = "; ".join(str(error).removesuffix(f". {error.fix}") for error in errors)
    fixes = ". ".join(dict.fromkeys(error.fix for error in errors))
    return PolicyDenied(f"no backend fits profile {profile.name!r} and language {wanted.language!r}: {reasons}", fixes)
