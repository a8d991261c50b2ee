"""The order of versions, and which of them fit each other."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tools.versions import is_compatible, version_key


def test_versions_sort_as_semantic_versioning_says() -> None:
    ordered = ["nightly", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered += ["1.0.0-rc.1", "1.0.0", "1.0.0+build.7", "1.2", "1.9.0", "1.10.0", "v2.0.0"]
    shuffled = random.Random(7).sample(ordered, len(ordered))
    assert sorted(shuffled, key=version_key) == ordered


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("1.2.0", "1.2"),
        ("1.9.9", "1.2.3"),
        ("v1.2.3", "1.2.3"),
        ("1.2.3+build.7", "1.2.3"),
        ("1.2.3", "1.2.3+build.7"),
        ("1.3.0", "1.2.0-beta"),
        ("1.2.0-beta.2", "1.2.0-beta.1"),
        ("0.2.9", "0.2.3"),
        ("0.0.3", "0.0.3"),
        ("nightly", "nightly"),
    ],
)
def test_versions_that_fit(version: str, wanted: str) -> None:
    assert is_compatible(version, wanted)


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("1.1.9", "1.2"),
        ("2.0.0", "1.2"),
        ("10.0.0", "1.0.0"),
        ("2.0.0-alpha", "1.0.0"),
        ("1.3.0-beta", "1.2.0"),  # not released
        ("1.2.0-beta", "1.2.0"),
        ("0.3.0", "0.2.3"),
        ("0.0.4", "0.0.3"),
        ("1.0.0", "0.9.0"),
        ("nightly", "1.0.0"),
        ("1.0.0", "nightly"),
        ("nightly-2", "nightly"),
    ],
)
def test_versions_that_do_not_fit(version: str, wanted: str) -> None:
    assert not is_compatible(version, wanted)


VERSION = st.builds("{}.{}.{}{}".format, *[st.integers(0, 3)] * 3, st.sampled_from(["", "-a", "-a.1", "-b", "+x"]))


@settings(deadline=None)
@given(VERSION, VERSION, VERSION)
def test_fitting_is_an_order(one: str, two: str, three: str) -> None:
    assert is_compatible(one, one)
    if is_compatible(two, one):
        assert version_key(two)[:3] >= version_key(one)[:3]
        if is_compatible(three, two):
            assert is_compatible(three, one)
