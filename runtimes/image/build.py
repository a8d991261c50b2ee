"""Builds a guest's image: a base image with Python, and the agent with its libraries in the base's own version.

Wheels are fetched on this host, by pip; the build itself needs no network and has none. Blocking: for commands.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import BackendUnavailable, InvalidRequest
from runtimes._docker_daemon import AGENT_LABEL, LANGUAGES_LABEL
from runtimes._docker_engine import connected, translating
from runtimes._docker_options import KIND, DockerOptions
from runtimes.image.agent import agent_digest, agent_files

if TYPE_CHECKING:
    from docker import APIClient

LIBRARIES = ("grpcio", "protobuf")
ZONES = "tzdata"
"""For `zoneinfo`: slim images have no time zones."""

DEFAULT_BASE = "python:3.13-slim"
OLDEST_PYTHON = (3, 11)
PIP_SECONDS = 600.0
BUILD_SECONDS = 600.0

QUESTION = """
import json, platform, shutil, sys
programs = {"bash": "bash", "javascript": "node"}
print(json.dumps({
    "python": sys.version_info[:2], "machine": platform.machine(), "musl": platform.libc_ver()[0] != "glibc",
    "languages": ["python", *(language for language, program in programs.items() if shutil.which(program))],
}))
"""


@dataclass(frozen=True, slots=True)
class Base:
    """What is in a base image: its python3's version, its kind of processor and C library, the languages it runs."""

    python: tuple[int, int]
    machine: str
    musl: bool
    languages: tuple[str, ...]

    @property
    def platforms(self) -> tuple[str, ...]:
        """Of wheels, in pip's words, the newest first."""
        kinds = ("musllinux_1_2",) if self.musl else ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
        return tuple(f"{kind}_{self.machine}" for kind in kinds)


def build_image(
    base: str, options: DockerOptions, *, wheels: Path | None, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Build `options.image` on `base`, and return the languages it runs.

    `wheels` is a folder to take libraries from instead of the package index. Raises InvalidRequest, BackendUnavailable
    or SandboxLost.
    """
    with translating(base, f"Get it first: docker pull {base}"):
        client = connected(options)
        try:
            say(f"looking into {base}")
            found = _look_into(client, base)
            with tempfile.TemporaryDirectory() as folder:
                say(f"fetching {' and '.join(LIBRARIES)} for Python {'.'.join(map(str, found.python))}")
                context = Path(folder)
                _fetch(found, wheels, context / "site")
                _copy_agent(context)
                say(f"building {options.image}")
                _build(client, context, base, found, options.image)
        finally:
            client.close()
    return found.languages


def _look_into(client: "APIClient", base: str) -> Base:
    """Ask the base's own Python, with the network off."""
    config = {
        "Image": base,
        "Entrypoint": ["python3", "-I", "-c", QUESTION],
        "Cmd": [],
        "NetworkDisabled": True,
        "HostConfig": {"NetworkMode": "none", "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"]},
    }
    container = client.create_container_from_config(config)["Id"]  # type: ignore[no-untyped-call]  # no stub for it
    try:
        client.start(container)
        code = client.wait(container, timeout=60)["StatusCode"]
        said = client.logs(container).decode(errors="replace")
    finally:
        client.remove_container(container, force=True)
    if code != 0:
        raise InvalidRequest(f"python3 of image {base} does not work: {said[-300:]}")
    answer = json.loads(said)
    found = Base(tuple(answer["python"]), answer["machine"], answer["musl"], tuple(answer["languages"]))
    if found.python < OLDEST_PYTHON:
        raise InvalidRequest(f"image {base} has Python {found.python}; use one with Python 3.11 or newer")
    return found


def _fetch(base: Base, wheels: Path | None, target: Path) -> None:
    """The agent's libraries, in the versions that this host has: the generated code is made for them."""
    pinned = [*(f"{name}=={version(name)}" for name in LIBRARIES), ZONES]
    where = () if wheels is None else ("--no-index", "--find-links", str(wheels.resolve()))
    platforms = (part for platform in base.platforms for part in ("--platform", platform))
    argv = (
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--target", str(target), "--only-binary", ":all:", "--implementation", "cp"),
        *("--python-version", ".".join(map(str, base.python)), *platforms, *where, *pinned),
    )
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    if done.returncode != 0:
        fix = "Give pip a way to the package index, or name a folder with the wheels: --wheels FOLDER"
        raise BackendUnavailable(KIND, f"pip could not fetch {', '.join(pinned)}: {done.stderr.strip()[-300:]}", fix)


def _copy_agent(context: Path) -> None:
    for name, data in agent_files().items():
        target = context / "site" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (context / "Dockerfile").write_bytes((Path(__file__).parent / "Dockerfile").read_bytes())


def _build(client: "APIClient", context: Path, base: str, found: Base, tag: str) -> None:
    lines = client.build(
        fileobj=_archive(context),
        custom_context=True,
        tag=tag,
        buildargs={"BASE": base},
        labels={AGENT_LABEL: agent_digest(), LANGUAGES_LABEL: " ".join(found.languages)},
        network_mode="none",
        rm=True,
        forcerm=True,
        decode=True,
        timeout=int(BUILD_SECONDS),
    )
    for line in lines:
        if "error" in line:
            raise BackendUnavailable(KIND, f"the image could not be built: {line['error']}", "Use another base image")


def _archive(context: Path) -> io.BytesIO:
    """A tar file whose entries are root's and readable, whoever builds."""

    def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(context, arcname=".", filter=owned_by_root)
    archive.seek(0)
    return archive
