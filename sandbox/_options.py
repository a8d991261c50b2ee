"""What the options of `toolexec run` stand for. Raises InvalidRequest with what is wrong and what fits."""

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.artifacts import Artifact, is_plain
from gateway.errors import InvalidRequest, SandboxError
from gateway.tools.model import Tool, ToolId
from runtimes.limits import SECONDS, Limits

LANGUAGES = {
    ".py": "python",
    ".sh": "bash",
    ".bash": "bash",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
}


def read_code(file: str) -> str:
    """The snippet in this file, or on standard input for `-`."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode()
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8 text: byte {error.start}") from error


def language_of(file: str) -> str | None:
    """The language that a file's name tells; None leaves it to the settings."""
    return LANGUAGES.get(Path(file).suffix)


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE, each name once."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidRequest(f"{option} must be NAME=VALUE, not {text!r}")
        if name in found:
            raise InvalidRequest(f"{option} {name} was given twice")
        found[name] = value
    return found


def parse_limits(texts: Iterable[str]) -> Limits:
    """Limits by name; a number of seconds, or a whole number."""
    return Limits.of({name: _number(name, value) for name, value in pairs("--limit", texts).items()})


def _number(name: str, text: str) -> float | int:
    try:
        return float(text) if name in SECONDS else int(text)
    except ValueError:
        kind = "a number of seconds" if name in SECONDS else "a whole number"
        raise InvalidRequest(f"--limit {name} must be {kind}, not {text!r}") from None


def named_files(paths: Iterable[Path]) -> dict[str, bytes]:
    """Contents by file name."""
    found: dict[str, bytes] = {}
    for path in paths:
        if path.name in found:
            raise InvalidRequest(f"--file {path}: there is a {path.name} already; files go in by their names")
        try:
            found[path.name] = path.read_bytes()
        except OSError as error:
            raise InvalidRequest(f"--file {path}: {error.strerror}") from error
    return found


def tools_at(where: str) -> Sequence[Tool]:
    """The tools at MODULE:ATTR, or those that a .toml or .json file describes.

    At MODULE:ATTR is a function, a Tool, a list of these, or a mapping of names to these. A mapping names its tools; a
    mapping inside it is a namespace. Modules are also found in the working folder.
    """
    if where.endswith((".toml", ".json")):
        from gateway.providers.data import read_tools  # noqa: PLC0415 - it knows every kind of provider

        return read_tools(where)
    module_name, colon, attribute = where.partition(":")
    if not (module_name and colon and attribute):
        raise InvalidRequest(f"--tools must be MODULE:ATTR, or a .toml or .json file, not {where!r}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except AttributeError as error:
        raise InvalidRequest(f"--tools {where}: {error}") from error
    except Exception as error:  # whatever a module of the user's raises while it is imported
        raise InvalidRequest(f"--tools {where}: importing it failed: {type(error).__name__}: {error}") from error
    return tuple(_tools(found, where))


def _tools(found: Any, where: str) -> Iterator[Tool]:
    if isinstance(found, Mapping):
        for name, inner in found.items():
            if isinstance(inner, Mapping):
                yield from (_named(tool, inner_name, name) for inner_name, tool in inner.items())
            else:
                yield _named(inner, name)
    elif isinstance(found, list | tuple):
        yield from (_tool(one, where) for one in found)
    else:
        yield _tool(found, where)


def _tool(found: Any, where: str) -> Tool:
    if isinstance(found, Tool):
        return found
    if callable(found):
        from gateway.providers.function import function_tool  # noqa: PLC0415 - pydantic, and only needed here

        return function_tool(found)
    raise InvalidRequest(
        f"--tools {where}: expected a function, a Tool, a list of these or a mapping of names to these, "
        f"not {type(found).__name__}"
    )


def _named(found: Any, name: str, namespace: str = "") -> Tool:
    tool = _tool(found, name)
    return replace(tool, id=ToolId(name, namespace, tool.id.version))


def empty_folder(path: Path) -> Path:
    """This folder, made if need be. It must be empty, so that nothing a snippet leaves can replace anything."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise InvalidRequest(f"--out {path}: {error.strerror}") from error
    if taken:
        raise InvalidRequest(f"--out {path}: the folder is not empty; name a new or an empty one")
    return path


def write_artifacts(folder: Path, artifacts: Iterable[Artifact]) -> None:
    """Write them beneath `folder`, which nobody else has written to. Their names are the guest's, so checked again."""
    root = folder.resolve()
    for artifact in artifacts:
        target = root.joinpath(*artifact.path.split("/"))
        if not is_plain(artifact.path) or not target.resolve().is_relative_to(root):
            raise SandboxError(f"artifact {artifact.path[:100]!r} has no plain relative path; nothing more was written")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(artifact.data)
        except OSError as error:
            raise SandboxError(f"artifact {artifact.path[:100]!r} could not be written: {error.strerror}") from error
