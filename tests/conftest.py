"""Shared by all tests: asyncio only, and engines that are missing are skips with a name."""

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from anyio.pytest_plugin import get_runner
from hypothesis import HealthCheck, settings

from runtimes.base import Capabilities
from sandbox import Exec

pytest_plugins = ["tests.engines", "tests.crashing", "tests.scripts"]

# How long an example takes says how busy the machine is.
settings.register_profile("toolexec", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("toolexec")

# Compiling our modules anew takes every process that a test starts longer than what it is started for.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell has what it runs in the background ignore interrupts, and every process that a test started would do so too.
signal.signal(signal.SIGINT, signal.default_int_handler)

FRUGAL = {"TOOLEXEC_WORKERS": "1", "TOOLEXEC_POOL_SIZE": "1"}
"""Settings for hosts in their own process that run a snippet or two: what they keep warm is started for nothing."""

LONG = (
    *("contract/test_hostile_containers.py", "contract/test_javascript.py"),
    *("gateway/test_mcp.py", "contract/test_output.py", "contract/test_limits.py", "sandbox/test_leaks.py"),
    *("contract/test_hostile.py",),
    *("sandbox/test_cli_mcp.py", "sandbox/test_image.py", "contract/test_bash.py"),
    *("contract/test_isolation.py", "gateway/test_journal_tables.py", "runtimes/wasm/test_backend.py", "test_docs.py"),
    *("sandbox/test_resume.py", "sandbox/test_cli.py", "gateway/test_dynamodb.py", "sandbox/test_replay_examples.py"),
    *("contract/test_journals.py", "runtimes/test_docker.py", "contract/test_errors.py", "runtimes/test_gvisor.py"),
    *("runtimes/test_confine.py", "sandbox/test_replay.py", "sandbox/test_cli_durable.py", "test_examples.py"),
)
"""Files whose tests take longest, the longest of all first: about 10 seconds and more."""

REQUIRED = frozenset(filter(None, os.environ.get("TOOLEXEC_REQUIRE", "").split(",")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first, so that no process is still at one when the others have nothing left to do."""
    here = Path(__file__).parent
    ranks = {here / name: rank for rank, name in enumerate(LONG)}
    assert all(path.exists() for path in ranks)
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def anyio_backend() -> Iterator[str]:
    """asyncio, and one event loop for all tests of the process. gRPC has one queue of events for all loops there, and
    may read the last event of a call of one test in the next, when a loop of that test alone would be closed."""
    with get_runner("asyncio", {}):
        yield "asyncio"


def require(engine: str, reason: str) -> None:
    """Skip because `engine` is missing, or fail where it must not be."""
    if engine in REQUIRED:
        pytest.fail(f"{engine} is required here, and missing: {reason}")
    pytest.skip(f"{engine}: {reason}")


@pytest.fixture(scope="session")
def shared_exec() -> Iterator[Exec]:
    """One Exec with every backend allowed, for tests that leave it as they found it. It keeps one sandbox of a kind
    warm: tests come one after the other, and what nobody claims was started for nothing."""
    with Exec(allow_unsafe=True, pool_size=1) as exec:
        yield exec


@pytest.fixture(scope="session")
def capabilities(shared_exec: Exec) -> Mapping[str, Capabilities]:
    """What each backend can do here. Found once: a probe starts guests, and takes a second or two."""
    return shared_exec.probe()


@pytest.fixture(params=["wasm", "unsafe", "docker", "gvisor"])
def backend(request: pytest.FixtureRequest, capabilities: Mapping[str, Capabilities]) -> str:
    """Every backend that a contract holds for."""
    kind: str = request.param
    if not capabilities[kind].usable:
        require(kind, capabilities[kind].reason)
    return kind


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the hosts of one test keep their folders: what names it belongs to that test, and to no other Exec."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture
def wasm(capabilities: Mapping[str, Capabilities]) -> None:
    """For tests of what runs in WASM, though they do not say so."""
    if not capabilities["wasm"].usable:
        require("wasm", capabilities["wasm"].reason)
