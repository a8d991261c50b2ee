"""docs/security-profiles.md says of each profile and backend what the policy and the backend say themselves."""

from collections.abc import Mapping

import pytest

from runtimes._container import CPUS, DEFAULT_DISK_BYTES, DEFAULT_MEMORY_BYTES, DEFAULT_PIDS
from runtimes.base import Capabilities
from tests.security_profiles import BACKENDS, PAGE, columns, tables, written


def test_the_page_has_every_table() -> None:
    assert list(written()) == ["profiles", "limits", "languages"]


def test_what_the_page_says_of_a_backend_is_true_of_it(backend: str, capabilities: Mapping[str, Capabilities]) -> None:
    fresh = tables(capabilities)
    for name, markdown in written().items():
        assert columns(markdown)[backend] == columns(fresh[name])[backend], (
            f"run: python -m tests.security_profiles ({name})"
        )


def test_every_backend_that_is_installed_has_its_column(capabilities: Mapping[str, Capabilities]) -> None:
    assert set(BACKENDS) == capabilities.keys()


@pytest.mark.parametrize("name", ["profiles", "limits", "languages"])
def test_no_row_was_forgotten(name: str, capabilities: Mapping[str, Capabilities]) -> None:
    title = written()[name].split("|")[1].strip()
    assert columns(written()[name])[title] == columns(tables(capabilities)[name])[title]


def test_the_bounds_of_a_container_are_those_of_the_code() -> None:
    text = " ".join(PAGE.read_text().split())
    bounds = f"{DEFAULT_MEMORY_BYTES >> 20} MiB of memory, no swap, {DEFAULT_DISK_BYTES >> 20} MiB of files"
    assert f"{bounds}, {DEFAULT_PIDS} processes and one processor" in text
    assert CPUS == 1.0
