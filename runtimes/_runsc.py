"""The `runsc` program: what this release of it can do, and its command line.

Releases from 2022 on are spoken to. Which flags one has is read from its own help, never guessed from its version.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PLATFORMS = ("systrap", "kvm", "ptrace")
"""How gVisor catches a guest's system calls, the best first."""

PANIC = "panic"
PROTECT_INIT = "signal-unkillable-policy"
ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Runsc:
    """One release of it: `flags` by name with their help."""

    path: str
    version: str
    flags: Mapping[str, str]

    @property
    def platforms(self) -> tuple[str, ...]:
        """Those that this release was built with, the best first."""
        known = set(re.findall(r"\w+", self.flags.get("platform", "")))
        return tuple(name for name in PLATFORMS if name in known)

    @property
    def protects_init(self) -> bool:
        """Whether a guest cannot kill its own init."""
        return PROTECT_INIT in self.flags

    def run(self, *, state: Path, bundle: Path, name: str, platform: str) -> tuple[str, ...]:
        """The command that runs `bundle` in the foreground and ends with it. A failure of gVisor's own kernel is told
        in the bundle's file `panic`."""
        wanted = {
            "root": str(state),
            "log": str(bundle / "log"),
            "panic-log": str(bundle / PANIC),
            "platform": platform,
            "network": "none",
            "ignore-cgroups": "true",  # it is started inside a group of ours
            "rootless": "true" if os.geteuid() != 0 else "false",
            "file-access-mounts": "exclusive",  # read-only to the guest, and nobody else changes them: cached
            **self._wanted_by_release(),
        }
        flags = (f"--{flag}={value}" for flag, value in wanted.items())
        return (self.path, *flags, "run", f"--bundle={bundle}", name)

    def _wanted_by_release(self) -> dict[str, str]:
        """The gofer, not the kernel that faces the guest, opens files and the one socket; nothing is laid over them;
        signals do not reach the guest's init."""
        newer = {
            "host-uds": "open",
            "overlay2": "none",
            "directfs": "false",
            "gofer-network-namespace": "new",
            PROTECT_INIT: "linux",
        }
        older = {} if "host-uds" in self.flags else {"fsgofer-host-uds": "true"}
        return {flag: value for flag, value in newer.items() if flag in self.flags} | older


def find_runsc(path: str | None = None) -> Runsc | None:
    """The program at `path`, or the first on PATH; None when there is none. Raises OSError when it cannot be asked."""
    program = shutil.which(path or "runsc")
    if program is None:
        return None
    version = _ask(program, "--version").partition("\n")[0].removeprefix("runsc version ").strip()
    return Runsc(program, version, parse_flags(_ask(program, "flags")))


def parse_flags(text: str) -> dict[str, str]:
    """Flags and their help, from the output of `runsc flags`."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"  -([\w-]+)", line):
            name = match[1]
            found[name] = line.partition("\t")[2]
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _ask(program: str, question: str) -> str:
    """It writes its flags to standard error, as programs in Go do."""
    try:
        done = subprocess.run(
            (program, question),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ASK_SECONDS,
            check=True,
            env={"PATH": os.defpath},
            text=True,
            errors="replace",
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"`{program} {question}` failed: {error}") from error
    return done.stdout
