"""Profiles are three, in order of strength, and there is no fourth to fall back to."""

from typing import Any

import pytest

from gateway.errors import InvalidRequest
from sandbox import profile
from sandbox.profile import PROFILES, profile_named


def test_each_is_at_least_as_strong_as_the_one_before() -> None:
    assert list(PROFILES) == ["dev", "standard", "hardened"]
    assert [(one.floor, one.strict) for one in PROFILES.values()] == [(0, False), (1, True), (2, True)]
    assert all(profile_named(name).name == name for name in PROFILES)


@pytest.mark.parametrize("name", ["", "Dev", " dev", "unsafe", None, 0, [], {}])
def test_any_other_name_is_an_error(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="there are dev, standard, hardened"):
        profile_named(name)


def test_the_documented_table_has_every_profile() -> None:
    rows = [line.split("|")[1].strip() for line in (profile.__doc__ or "").splitlines() if line.startswith("| ")]
    assert rows[2:] == list(PROFILES)
