"""The agent's files, which go into a guest's image, and their digest: an image with other files is not used."""

import hashlib
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = HERE.parents[1]
PATTERNS = (
    "gateway/__init__.py",
    "gateway/base.py",
    "gateway/frames.py",
    "gateway/v1/*.py",
    "runtimes/__init__.py",
    "runtimes/guest/**/*",
)


def agent_files() -> dict[str, bytes]:
    """Contents by path, relative to the folder that they are found in inside."""
    found = {
        path.relative_to(PACKAGES).as_posix(): path.read_bytes()
        for pattern in PATTERNS
        for path in PACKAGES.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {"start.py": (HERE / "start.py").read_bytes(), **found}


@cache
def agent_digest() -> str:
    """Of this installation's agent."""
    digest = hashlib.sha256()
    for name, data in sorted(agent_files().items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]
