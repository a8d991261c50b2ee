"""Builds the WASM guest when the package is built or installed from source."""

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GuestHook(BuildHookInterface[Any]):
    """Runs `runtimes/wasm/build.py` by its path: the package is not installed yet."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        path = Path(self.root, "runtimes", "wasm", "build.py")
        spec = importlib.util.spec_from_file_location("toolexec_guest_build", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.build()
