"""The guest's clocks and random numbers are the host's: through every door that a guest finds."""

from collections.abc import Iterator

import pytest

from runtimes.wasm.backend import WASM
from sandbox import Exec
from tests.conftest import require


@pytest.fixture(scope="module")
def host() -> Iterator[Exec]:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    with Exec(workers=1, pool_size=1) as exec:
        yield exec


def test_every_source_of_chance_is_the_same_for_the_same_seed(host: Exec) -> None:
    code = "import importlib, os, random, time\nimportlib.reload(time)\nrandom.seed()\n"
    code += "[random.random(), os.getrandom(8).hex() if hasattr(os, 'getrandom') else 0, os.urandom(5000).hex()[-9:]]"
    result = host.execute_code(code, backend="wasm")
    assert result.error is None
    report = host.replay(result.execution_id)
    assert report.exact
    assert report.same


def test_every_clock_is_the_hosts(host: Exec) -> None:
    code = """
        import datetime, time
        clocks = [time.CLOCK_REALTIME, time.CLOCK_MONOTONIC]
        [*map(time.clock_gettime_ns, clocks), str(datetime.datetime.now()), time.ctime(), time.perf_counter_ns()]
    """
    result = host.execute_code(code, backend="wasm")
    assert result.error is None
    assert host.replay(result.execution_id).same


def test_time_passes_and_never_goes_back(host: Exec) -> None:
    code = """
        import time
        t = [time.monotonic() for _ in range(1000)]
        before = time.time()
        time.sleep(0.05)
        [t == sorted(t), time.time() - before >= 0.05, before]
    """
    ordered, slept, now = host.execute_code(code, backend="wasm").value
    assert ordered
    assert slept
    assert now > 1_700_000_000
