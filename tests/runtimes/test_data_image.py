"""The optional image with numpy, pandas and matplotlib, which `.ci/engines data …` makes: under Docker, and unpacked as
the root of gVisor. Making it takes minutes, so it is required under a name of its own: `data-image`."""

import subprocess
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runtimes.base import Backend
from runtimes.docker import DockerBackend
from runtimes.gvisor import GvisorBackend
from sandbox import AsyncExec, Outcome
from tests.conftest import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

IMAGE = "toolexec-guest-data:latest"
PNG = b"\x89PNG\r\n\x1a\n"
LIMITS: Mapping[str, float] = {"wall_seconds": 60, "memory_bytes": 1 << 30}


@asynccontextmanager
async def guests(kind: str, **options: Any) -> AsyncIterator[AsyncExec]:
    backends: Mapping[str, type[Backend]] = {"docker": DockerBackend, "gvisor": GvisorBackend}
    wanted = {kind: backends[kind]}
    async with AsyncExec(profile="standard", backends=wanted, backend_options={kind: options}, pool_size=0) as host:
        found = (await host.probe())[kind]
        if not found.usable:
            require("data-image", f"{found.reason}; make it: .ci/engines data python3-numpy python3-pandas …")
        yield host


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as a folder."""
    made = subprocess.run(["docker", "create", IMAGE, "python3"], capture_output=True, text=True)
    if made.returncode != 0:
        require("data-image", made.stderr.strip())
    root = tmp_path_factory.mktemp("data-image")
    try:
        exporting = subprocess.Popen(["docker", "export", made.stdout.strip()], stdout=subprocess.PIPE)
        with exporting, tarfile.open(fileobj=exporting.stdout, mode="r|") as archive:
            archive.extractall(root, filter=_without_devices)
    finally:
        subprocess.run(["docker", "rm", made.stdout.strip()], capture_output=True, check=True)
    root.chmod(0o755)
    return root


def _without_devices(entry: tarfile.TarInfo, _folder: str) -> tarfile.TarInfo | None:
    return None if entry.ischr() or entry.isblk() else entry


TABLE = """
import numpy, pandas
frame = pandas.DataFrame({"city": ["Graz", "Linz", "Graz"], "sales": numpy.array([3, 5, 4])})
frame.groupby("city")["sales"].sum().to_dict()
"""

FIGURE = """
import matplotlib.pyplot as plt
plt.plot([1, 4, 9])
plt.title("squares")
plt.figure()
plt.bar(["a", "b"], [1, 2])
"drawn"
"""


async def analyse(host: AsyncExec) -> None:
    result = await host.execute_code(TABLE, limits=LIMITS)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, {"Graz": 7, "Linz": 5}), result.summary()
    result = await host.execute_code(FIGURE, limits=LIMITS)
    assert (result.outcome, result.value, result.stderr) == (Outcome.COMPLETED, "drawn", ""), result.summary()
    assert [artifact.path for artifact in result.artifacts] == ["figure-1.png", "figure-2.png"]
    for artifact in result.artifacts:
        assert artifact.data.startswith(PNG)
        assert len(artifact.data) > 1000


async def test_tables_and_figures_under_docker() -> None:
    async with guests("docker", image=IMAGE) as host:
        await analyse(host)


async def test_tables_and_figures_under_gvisor(unpacked: Path) -> None:
    async with guests("gvisor", root=str(unpacked)) as host:
        await analyse(host)
