"""One suite for all backends: `run` runs a snippet on the backend under test."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import anyio
import pytest

from runtimes.base import Backend, Capabilities
from sandbox import Exec, ExecutionResult, ToolError, ToolExample
from tests.conftest import require
from tests.contract.housed import HousedDocker, HousedGvisor, HousedUnsafe
from tests.contract.known_gaps import KNOWN_GAPS, NO_LANGUAGE
from tests.contract.streaming import register_streaming_tools

Run: TypeAlias = Callable[..., ExecutionResult]
HOUSED: Mapping[str, type[Backend]] = {"docker": HousedDocker, "gvisor": HousedGvisor, "unsafe": HousedUnsafe}


@pytest.fixture(scope="session")
def housed_exec() -> Iterator[Exec]:
    """One Exec whose guests share one place of each kind: see housed.py."""
    with Exec(backends=HOUSED, allow_unsafe=True, pool_size=1) as exec:
        yield exec


@pytest.fixture
def shares(backend: str, request: pytest.FixtureRequest) -> bool:
    """Whether guests of this test may share a place: it or its module is marked `one_container`, and neither it nor its
    case is marked `own_container`."""
    marked = request.node.get_closest_marker
    return backend in HOUSED and marked("one_container") is not None and marked("own_container") is None


@pytest.fixture
def run(*, shared_exec: Exec, housed_exec: Exec, backend: str, shares: bool, demo_tools: None) -> Run:
    """`run(code, **options)`: the backend under test, profile dev, 20 seconds and the options of `execute_code`.

    The guest has its container or process tree to itself, unless it `shares` one.
    """
    exec = housed_exec if shares else shared_exec

    def run_snippet(code: str, *, limits: dict[str, Any] | None = None, **options: Any) -> ExecutionResult:
        wanted = {"profile": "dev", "backend": backend, "limits": {"wall_seconds": 20, **(limits or {})}}
        return exec.execute_code(code, **(wanted | options))

    return run_snippet


@pytest.fixture(scope="session")
def languages(capabilities: Mapping[str, Capabilities]) -> Mapping[str, frozenset[str]]:
    """By backend, what its guests can speak here."""
    return {kind: found.languages for kind, found in capabilities.items()}


@pytest.fixture
def bash(run: Run, backend: str, languages: Mapping[str, frozenset[str]]) -> Run:
    """`run` for bash snippets."""
    return speaking("bash", run, backend, languages)


@pytest.fixture
def javascript(run: Run, backend: str, languages: Mapping[str, frozenset[str]]) -> Run:
    """`run` for JavaScript snippets."""
    return speaking("javascript", run, backend, languages)


def speaking(language: str, run: Run, backend: str, languages: Mapping[str, frozenset[str]]) -> Run:
    """`run` in another language; skips where the backend has no such guests, or this place has not what runs it."""
    if reason := NO_LANGUAGE.get((backend, language)):
        pytest.skip(f"{backend} runs no {language}: {reason}")
    if language not in languages[backend]:
        require(language, f"what runs it is not where the guests of {backend} are")
    return partial(run, language=language)


@pytest.fixture(scope="session")
def execs(shared_exec: Exec, housed_exec: Exec) -> tuple[Exec, Exec]:
    """Those that `run` uses: tools are registered in both."""
    return shared_exec, housed_exec


@pytest.fixture(scope="session")
def demo_tools(execs: tuple[Exec, Exec]) -> None:
    """Tools in the namespace `demo`, and `demo_plain`, which has none."""
    for exec in execs:
        register_demo_tools(exec)


@pytest.fixture(scope="session")
def streaming_tools(execs: tuple[Exec, Exec]) -> None:
    """Tools in the namespace `stream`."""
    for exec in execs:
        register_streaming_tools(exec)


def register_demo_tools(host: Exec) -> None:
    host.tool(namespace="demo", examples=[ToolExample("Two numbers", {"a": 1, "b": 2}, "their sum")])(add)
    functions: tuple[Callable[..., Any], ...] = (double, echo, fail, refuse, slow, wait, bulky)
    for function in functions:
        host.tool(namespace="demo", read_only=True)(function)
    host.tool(namespace="demo", name="hang", timeout_seconds=0.3)(wait)
    host.tool(demo_plain)
    for version in ("1.0", "2.0"):
        host.tool(namespace="demo", name="edition", version=version)(partial(edition, version))


def add(a: int, b: int = 10) -> int:
    """Add two whole numbers."""
    return a + b


def double(previous: int) -> int:
    """Twice the previous result."""
    return 2 * previous


def echo(value: Any) -> Any:
    """Give the value back."""
    return value


def fail() -> None:
    """Never works."""
    raise ValueError("no luck")


def refuse() -> None:
    """Say no, in the tool's own words."""
    raise ToolError("out of stock", details={"left": 0}, retryable=True)


async def slow(seconds: float, answer: int = 0) -> int:
    """Answer late."""
    await anyio.sleep(seconds)
    return answer


async def wait() -> None:
    """Never answer."""
    await anyio.sleep_forever()


def bulky(size: int) -> str:
    """A long text."""
    return "x" * size


def edition(version: str) -> str:
    """Which edition of the tool answers."""
    return version


def demo_plain() -> str:
    """A tool without a namespace."""
    return "plain"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            backend = str(item.callspec.params.get("backend"))
            for name in (item.originalname, _without(item.name, backend)):
                if reason := KNOWN_GAPS.get((backend, name)):
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _without(name: str, backend: str) -> str:
    """`test_name[case]` of `test_name[wasm-case]`."""
    return name.replace(f"[{backend}-", "[").replace(f"-{backend}]", "]")
