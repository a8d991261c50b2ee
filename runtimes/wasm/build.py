"""Builds the guest component from our sources with componentize-py (about 15 s), for `make build` and for wheels.

The component is CPython with its whole standard library, time zones and `runtimes.guest`, initialised and snapshotted.
Nothing is built when the sources, componentize-py and tzdata are those of the component that is there.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent
WASM = HERE / "guest.wasm"
DIGEST = HERE / "guest.sha256"
WIT = HERE / "guest.wit"
APP = "runtimes.guest.wasm_app"
PROCESS_ONLY = {"agent.py"}


def build() -> bool:
    """Build the component if its sources changed; return whether it was built. Raise CalledProcessError."""
    digest = _digest()
    if WASM.exists() and DIGEST.exists() and DIGEST.read_text().strip() == digest:
        return False
    with tempfile.TemporaryDirectory(prefix="toolexec-build-") as folder:
        path = Path(folder)
        _lay_out(path)
        argv = [sys.executable, "-c", "import componentize_py; componentize_py.script()"]
        argv += ["-d", str(WIT), "-w", "guest", "componentize", "-p", str(path), "-o", str(path / "guest.wasm"), APP]
        subprocess.run(argv, check=True, cwd=path, stdout=subprocess.DEVNULL)
        shutil.copyfile(path / "guest.wasm", WASM)
    DIGEST.write_text(digest + "\n")
    return True


def _lay_out(folder: Path) -> None:
    """Our guest sources and tzdata, and nothing else, where the guest's interpreter looks while it is built."""
    (folder / "runtimes" / "guest").mkdir(parents=True)
    (folder / "runtimes" / "__init__.py").touch()
    for source in _sources():
        shutil.copy(source, folder / "runtimes" / "guest")
    shutil.copytree(_tzdata(), folder / "tzdata")


def _sources() -> list[Path]:
    return sorted(path for path in (PACKAGE / "guest").glob("*.py") if path.name not in PROCESS_ONLY)


def _tzdata() -> Path:
    spec = importlib.util.find_spec("tzdata")
    if spec is None or spec.origin is None:
        raise SystemExit("tzdata is not installed; run `pip install tzdata`")
    return Path(spec.origin).parent


def _digest() -> str:
    state = hashlib.sha256(f"{version('componentize-py')} {version('tzdata')}".encode())
    for source in (*_sources(), WIT, Path(__file__)):
        state.update(source.name.encode() + b"\0" + source.read_bytes())
    return state.hexdigest()


if __name__ == "__main__":
    print(f"{WASM}: {'built' if build() else 'up to date'}")
