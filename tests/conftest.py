"""Shared by all tests: asyncio only, and engines that are missing are skips with a name."""

import os
from collections.abc import Iterator

import pytest

from sandbox import Exec

pytest_plugins = ["tests.engines"]

REQUIRED = frozenset(filter(None, os.environ.get("TOOLEXEC_REQUIRE", "").split(",")))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def require(engine: str, reason: str) -> None:
    """Skip because `engine` is missing, or fail where it must not be."""
    if engine in REQUIRED:
        pytest.fail(f"{engine} is required here, and missing: {reason}")
    pytest.skip(f"{engine}: {reason}")


@pytest.fixture(scope="session")
def shared_exec() -> Iterator[Exec]:
    """One Exec with every backend allowed, for tests that leave it as they found it."""
    with Exec(allow_unsafe=True) as exec:
        yield exec


@pytest.fixture(params=["wasm", "unsafe", "docker", "gvisor"])
def backend(request: pytest.FixtureRequest, shared_exec: Exec) -> str:
    """Every backend that a contract holds for."""
    kind: str = request.param
    found = shared_exec.probe()[kind] if kind not in _usable else None
    if found is not None and not found.usable:
        require(kind, found.reason)
    _usable.add(kind)
    return kind


_usable: set[str] = set()
