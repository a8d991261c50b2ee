"""Every argument of an execution is checked before anything is started, and the message says what fits."""

from typing import Any

import pytest

from gateway.context import ANYBODY
from gateway.errors import InvalidRequest, InvalidToolId
from runtimes.limits import DEFAULT_LIMITS, Limits
from sandbox.request import MAX_CODE_BYTES, MAX_ENV_BYTES, MAX_FILES, Request

MIB = 1 << 20


def request(code: Any = "1", **changes: Any) -> Request:
    arguments: dict[str, Any] = {
        "language": "python",
        "profile": "standard",
        "backend": None,
        "limits": None,
        "default_limits": DEFAULT_LIMITS,
        "allowed_tools": None,
        "caller": ANYBODY,
        "check": False,
        "env": None,
        "files": None,
    }
    return Request.of(code, **(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": None}, "code must be a string, not NoneType"),
        ({"code": b"1"}, "code must be a string, not bytes"),
        ({"code": "x" * (MAX_CODE_BYTES + 1)}, "hand data over as `files`"),
        ({"code": "ü" * (MAX_CODE_BYTES // 2 + 1)}, "is over 1048576"),
        ({"code": "a\ud800"}, "lone surrogate at position 1"),
        ({"language": ""}, "language must be a non-empty string, not ''"),
        ({"language": 3}, "language must be a non-empty string, not 3"),
        ({"check": True, "language": "bash"}, "check=True is for Python"),
        ({"caller": {"role": "admin"}}, "caller must be a Caller, not dict"),
        ({"profile": "none"}, "unknown profile 'none'; there are dev, standard, hardened"),
        ({"profile": ["dev"]}, "unknown profile"),
        ({"backend": ""}, "backend must be a non-empty string"),
        ({"backend": 1}, "backend must be a non-empty string"),
        ({"limits": {"wall_second": 1}}, "unknown limit wall_second; there are wall_seconds"),
        ({"limits": {"wall_seconds": 0}}, "must be above zero"),
        ({"limits": 3}, "limits must be a Limits or a mapping, not int"),
        ({"allowed_tools": "math:add"}, "not one string"),
        ({"allowed_tools": [3]}, "must be a non-empty string"),
        ({"allowed_tools": [""]}, "must be a non-empty string"),
        ({"allowed_tools": 3}, "allowed_tools must be a collection"),
        ({"env": {"A": 1}}, "env must map strings to strings"),
        ({"env": {1: "A"}}, "env must map strings to strings"),
        ({"env": {"": "a"}}, "is empty or holds '='"),
        ({"env": {"A=B": "a"}}, "is empty or holds '='"),
        ({"env": {"A": "a\0"}}, "NUL"),
        ({"env": {"A": "\ud800"}}, "lone surrogate"),
        ({"env": {"A": "x" * MAX_ENV_BYTES}}, "env is over 65536 bytes"),
        ({"env": ["A=B"]}, "env must be a mapping"),
        ({"files": {"../up": b""}}, "must be relative"),
        ({"files": {"/abs": b""}}, "must be relative"),
        ({"files": {"": b""}}, "must be relative"),
        ({"files": {"a/./b": b""}}, "must be relative"),
        ({"files": {"a\0b": b""}}, "must be relative"),
        ({"files": {"x" * 2000: b""}}, "must be relative"),
        ({"files": {"x" * 256: b""}}, "must be relative"),
        ({"files": {3: b""}}, "must be relative"),
        ({"files": {"\ud800": b""}}, "lone surrogate"),
        ({"files": {"a": "\ud800"}}, "lone surrogate"),
        ({"files": {"a": 3}}, "must be bytes or text, not int"),
        ({"files": {"a": None}}, "must be bytes or text, not NoneType"),
        ({"files": {str(n): b"" for n in range(MAX_FILES + 1)}}, "files are more than 100"),
        ({"files": {"a": bytes(16 * MIB), "b": b"1"}}, "bytes together"),
        ({"files": {"a": b"", "a/b": b""}}, "'a' is both a file and a folder of another"),
        ({"files": ["a"]}, "files must be a mapping"),
    ],
    ids=lambda one: str(one)[:40] if isinstance(one, dict) else "",
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("entry", ["no spaces", "a:b:c:d", ":a", "a:", "*", "a:*:*"])
def test_malformed_tool_ids_are_refused(entry: str) -> None:
    with pytest.raises(InvalidToolId):
        request(allowed_tools=[entry])


def test_what_fits_is_taken_as_it_is() -> None:
    made = request(
        "print('ü')",
        backend="wasm",
        limits={"wall_seconds": 1},
        allowed_tools=iter(["math:add", "crm:*", "a:b:1.0.0"]),
        env={"A": "ü", "B": ""},
        files={"a/b.txt": "ü", "c": b"\xff", "-rf": b"", "ü": b"", ".hidden": b"", "...": b""},
    )
    assert (made.code, made.language, made.profile.name, made.backend) == ("print('ü')", "python", "standard", "wasm")
    assert made.limits == Limits(wall_seconds=1).over(DEFAULT_LIMITS)
    assert made.allowed_tools == frozenset({"math:add", "crm:*", "a:b:1.0.0"})
    assert made.env == {"A": "ü", "B": ""}
    assert made.files["a/b.txt"] == "ü".encode()
    assert set(made.files) == {"a/b.txt", "c", "-rf", "ü", ".hidden", "..."}


def test_nothing_allowed_is_not_everything_allowed() -> None:
    assert request(allowed_tools=[]).allowed_tools == frozenset()
    assert request(allowed_tools=None).allowed_tools is None


def test_the_largest_of_everything_fits() -> None:
    request("x" * MAX_CODE_BYTES)
    request(env={"A": "x" * (MAX_ENV_BYTES - 1)})
    request(files={str(n): b"" for n in range(MAX_FILES)})
    request(files={"a": bytes(16 * MIB)})
    request("")


def test_later_changes_of_the_callers_data_change_nothing() -> None:
    env, files = {"A": "1"}, {"a": b"1"}
    made = request(env=env, files=files)
    env["A"], files["b"] = "2", b""
    assert (made.env, made.files) == ({"A": "1"}, {"a": b"1"})
