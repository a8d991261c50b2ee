"""The operator's options for gVisor: which `runsc`, which root file system, which platform. Checked at the start."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gateway.errors import InvalidRequest
from runtimes._runsc import PLATFORMS


@dataclass(frozen=True, slots=True, kw_only=True)
class GvisorOptions:
    """How the backend `gvisor` works.

    runsc      the program (default the first on PATH)
    root       folder of an unpacked guest image (default the host's own Python, read-only)
    platform   systrap, kvm or ptrace (default the best that works here)
    """

    runsc: str | None = None
    root: Path | None = None
    platform: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "GvisorOptions":
        """Raise InvalidRequest for an option that is unknown or makes no sense."""
        known = [field.name for field in fields(cls)]
        for name, value in options.items():
            if name not in known:
                raise InvalidRequest(f"unknown option {name!r} of backend gvisor; there are {', '.join(known)}")
            if not isinstance(value, str | Path) or not str(value):
                raise InvalidRequest(f"option {name} of backend gvisor must be text, not {value!r}")
        if options.get("platform", PLATFORMS[0]) not in PLATFORMS:
            raise InvalidRequest(f"option platform of backend gvisor must be one of {', '.join(PLATFORMS)}")
        root = options.get("root")
        return cls(**{**options, **({} if root is None else {"root": Path(root).absolute()})})
