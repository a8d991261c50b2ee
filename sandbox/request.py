"""A request to run a snippet, checked once, here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gateway.artifacts import MAX_ARTIFACT_BYTES, is_plain
from gateway.context import Caller
from gateway.errors import InvalidRequest
from gateway.tools.model import ToolId
from runtimes.limits import Limits
from sandbox.profile import Profile, profile_named

MAX_CODE_BYTES = 1 << 20
MAX_FILES = 100
MAX_ENV_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to run and how. `limits` has the defaults filled in; `allowed_tools` None means every tool."""

    code: str
    language: str
    profile: Profile
    backend: str | None
    limits: Limits
    allowed_tools: frozenset[str] | None
    caller: Caller
    check: bool
    env: Mapping[str, str]
    files: Mapping[str, bytes]

    @classmethod
    def of(
        cls,
        code: str,
        *,
        language: str,
        profile: str,
        backend: str | None,
        limits: Limits | Mapping[str, Any] | None,
        default_limits: Limits,
        allowed_tools: Iterable[str] | None,
        caller: Caller,
        check: bool,
        env: Mapping[str, str] | None,
        files: Mapping[str, bytes | str] | None,
    ) -> "Request":
        """Check everything. Raise InvalidRequest that says what is wrong and what fits."""
        return cls(
            code=code_text(code),
            language=_text("language", language),
            profile=profile_named(profile),
            backend=None if backend is None else _text("backend", backend),
            limits=default_limits if limits is None else Limits.of(limits).over(default_limits),
            allowed_tools=None if allowed_tools is None else allowed(allowed_tools),
            caller=_caller(caller),
            check=_check(check, language),
            env=_env(_mapping("env", env)),
            files=_files(_mapping("files", files)),
        )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} must be a non-empty string, not {value!r}")
    return value


def _caller(caller: object) -> Caller:
    if not isinstance(caller, Caller):
        raise InvalidRequest(f"caller must be a Caller, not {type(caller).__name__}")
    return caller


def _check(check: bool, language: str) -> bool:  # noqa: FBT001 - a field of the request
    if check and language != "python":
        raise InvalidRequest(f"check=True is for Python; a snippet in {language!r} cannot be checked before it runs")
    return check


def code_text(code: object) -> str:
    """Raises InvalidRequest for what is no snippet."""
    if not isinstance(code, str):
        raise InvalidRequest(f"code must be a string, not {type(code).__name__}")
    size_bytes = len(_utf8("code", code))
    if size_bytes > MAX_CODE_BYTES:
        raise InvalidRequest(f"code of {size_bytes} bytes is over {MAX_CODE_BYTES}; hand data over as `files`")
    return code


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} has a lone surrogate at position {error.start}; it is not Unicode text") from None


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} must be a mapping, not {type(value).__name__}")
    return value


def allowed(allowed_tools: object) -> frozenset[str]:
    if isinstance(allowed_tools, str) or not isinstance(allowed_tools, Iterable):
        given = "one string" if isinstance(allowed_tools, str) else type(allowed_tools).__name__
        raise InvalidRequest(f"allowed_tools must be a collection of tool ids, not {given}")
    return frozenset(_allowed_id(entry) for entry in allowed_tools)


def _allowed_id(entry: object) -> str:
    """A tool id, or `namespace:*`."""
    text = _text("a tool id in allowed_tools", entry)
    ToolId.parse(text[:-1] + "any" if text.endswith(":*") else text)
    return text


def _env(env: Mapping[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not (isinstance(name, str) and isinstance(value, str)):  # type: ignore[redundant-expr]  # callers are not checked
            raise InvalidRequest(f"env must map strings to strings, not {name!r} to {type(value).__name__}")
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequest(f"env name {name!r} is empty or holds '=', or a NUL is in it or its value")
    if sum(len(_utf8("env", name + value)) for name, value in env.items()) > MAX_ENV_BYTES:
        raise InvalidRequest(f"env is over {MAX_ENV_BYTES} bytes; hand data over as `files`")
    return dict(env)


def _files(files: Mapping[str, bytes | str]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    for path, data in files.items():
        if not (isinstance(path, str) and is_plain(path)):  # type: ignore[redundant-expr]  # callers are not checked
            raise InvalidRequest(f"file path {path!r} must be relative, with forward slashes and no '.' or '..'")
        _utf8(f"file path {path!r}", path)
        if not isinstance(data, (bytes, str)):
            raise InvalidRequest(f"file {path!r} must be bytes or text, not {type(data).__name__}")
        contents[path] = data if isinstance(data, bytes) else _utf8(f"file {path!r}", data)
    if len(contents) > MAX_FILES or sum(map(len, contents.values())) > MAX_ARTIFACT_BYTES:
        raise InvalidRequest(f"files are more than {MAX_FILES} or over {MAX_ARTIFACT_BYTES} bytes together")
    folders = {str(folder) for path in contents for folder in PurePosixPath(path).parents}
    for path in folders & contents.keys():
        raise InvalidRequest(f"file path {path!r} is both a file and a folder of another")
    return contents
