"""Profiles: the caller's wish for protection, each with a floor that nothing goes below.

| profile  | boundaries a guest must break | limits a backend cannot hold | network, host files, credentials |
| -------- | ----------------------------- | ---------------------------- | -------------------------------- |
| dev      | none, if the operator allows  | reported as not enforced     | what the backend leaves open     |
| standard | one                           | refused                      | none                             |
| hardened | two, independent              | refused                      | none                             |
"""

from dataclasses import dataclass

from gateway.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Profile:
    """`floor` is the fewest boundaries a backend must put between guest and host; `strict` refuses any asked limit
    that the backend cannot hold."""

    name: str
    floor: int
    strict: bool


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("dev", floor=0, strict=False),
        Profile("standard", floor=1, strict=True),
        Profile("hardened", floor=2, strict=True),
    )
}


def profile_named(name: str) -> Profile:
    """Raise InvalidRequest for any other name: there is no profile to fall back to."""
    try:
        return PROFILES[name]
    except (KeyError, TypeError):
        raise InvalidRequest(f"unknown profile {name!r}; there are {', '.join(PROFILES)}") from None
