"""The public names, and what importing them costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gateway.policies
import sandbox


def test_all_is_sorted_and_complete() -> None:
    assert sandbox.__all__ == sorted(sandbox.__all__)
    tree = ast.parse(Path(str(sandbox.__file__)).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {name.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert sandbox.__all__ == sorted(homes)
    assert homes == sandbox._HOMES
    assert all(getattr(sandbox, name) is not None for name in sandbox.__all__)
    assert set(sandbox.__all__) <= set(dir(sandbox))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        sandbox.Nothing  # noqa: B018 - naming it is the point


def test_every_public_class_is_documented() -> None:
    names = [name for name in sandbox.__all__ if isinstance(getattr(sandbox, name), type)]
    assert len(names) > 20
    assert [name for name in names if not getattr(sandbox, name).__doc__] == []


def test_importing_loads_no_engine_and_no_command_line() -> None:
    code = "import sys, sandbox; sandbox.Exec; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "sandbox" in loaded
    assert loaded.isdisjoint({"wasmtime", "typer", "rich", "docker", "componentize_py", "pytest", "grpc"})


def test_the_commands_help_loads_no_host() -> None:
    code = "import sys, sandbox.cli; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sandbox._journal" in loaded
    assert loaded.isdisjoint({"grpc", "pydantic", "jsonschema_rs", "sandbox.exec", "sandbox.runtime"})


def test_installed_backends_load_no_engine() -> None:
    code = "import sys; from sandbox.runtime import installed_backends as i; print(*i(), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"unsafe", "wasm"} <= loaded
    assert "mock" not in loaded
    assert "wasmtime" not in loaded


def test_policies_are_loaded_when_they_are_named() -> None:
    code = "import sys, sandbox; sandbox.Exec; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("gateway.policies.")}
    always = {"base", "egress", "store"}  # what a call needs before any policy was chosen
    assert loaded <= {f"gateway.policies.{name}" for name in always}
    assert gateway.policies.__all__ == sorted(gateway.policies.__all__)
    assert all(getattr(gateway.policies, name).__doc__ for name in gateway.policies.__all__ if name != "Proceed")
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        gateway.policies.Nothing  # noqa: B018 - naming it is the point
