"""Which languages run in this place: `python -m runtimes.guest.languages.available` prints them as a JSON object.

A probe runs it where the guests will be, with the interpreter that will run the agent: in an image, or on the host.
"""

import json
import platform
import shutil
import subprocess

from runtimes.guest.languages import NODE, PATH

SECONDS = 20.0
"""How long a program may take to say its version: Node, on a busy machine, takes its time."""

_BASH = ("bash", "-c", 'printf %s "$BASH_VERSION"')
# What reads snippets is a part of Node that other builds of it may lack.
_NODE = (*NODE, "-e", "require('internal/deps/acorn/acorn/dist/acorn'); process.stdout.write(process.versions.node)")


def available() -> dict[str, str]:
    """By language what runs it, such as `GNU bash 5.2.15`. Blocks for some 100 ms."""
    asked = {"bash": ("GNU bash", _BASH), "javascript": ("Node", _NODE)}
    found = {language: _answer(name, argv) for language, (name, argv) in asked.items()}
    versions = {language: version for language, version in found.items() if version is not None}
    return {"python": f"CPython {platform.python_version()}", **versions}


def _answer(name: str, argv: tuple[str, ...]) -> str | None:
    program = shutil.which(argv[0], path=PATH)
    if program is None:
        return None
    try:
        asked = subprocess.run([program, *argv[1:]], capture_output=True, check=True, timeout=SECONDS, env={})
    except (OSError, subprocess.SubprocessError):
        return None  # it is there, and cannot do what a snippet needs
    return f"{name} {asked.stdout.decode(errors='replace')}"


if __name__ == "__main__":
    print(json.dumps(available()))
