"""Settings: arguments over `toolexec.toml` over the environment, and a wrong one says where it is."""

import math
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InvalidRequest
from runtimes.limits import DEFAULT_LIMITS, Limits
from sandbox.config import Settings, load_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TOOLEXEC_{name.upper()}", raising=False)
    return tmp_path


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.profile, settings.language, settings.allow_unsafe) == ("standard", "python", False)
    assert settings.default_limits == DEFAULT_LIMITS
    assert settings.workers >= 1
    assert (settings.pool_size, settings.pool_idle_seconds) == (None, 600.0)


def test_arguments_over_file_over_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROFILE": "dev", "LANGUAGE": "a", "WORKERS": "3", "POOL_SIZE": "0"}.items():
        monkeypatch.setenv(f"TOOLEXEC_{name}", value)
    assert (load_settings().profile, load_settings().pool_size) == ("dev", 0)
    (folder / "toolexec.toml").write_text('profile = "hardened"\nlanguage = "b"\n')
    settings = load_settings(language="c")
    assert (settings.profile, settings.language, settings.workers) == ("hardened", "c", 3)
    assert load_settings(profile=None).profile == "hardened"


def test_limits_are_taken_field_by_field(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLEXEC_LIMITS__WALL_SECONDS", "1.5")
    monkeypatch.setenv("TOOLEXEC_LIMITS__MEMORY_BYTES", "1000")
    monkeypatch.setenv("TOOLEXEC_LIMITS__TOOL_CALLS", "7")
    (folder / "toolexec.toml").write_text("[limits]\nmemory_bytes = 2000\ntool_calls = 8\n")
    limits = load_settings(limits={"tool_calls": 9}).default_limits
    assert limits == Limits(wall_seconds=1.5, memory_bytes=2000, tool_calls=9).over(DEFAULT_LIMITS)
    assert isinstance(limits.memory_bytes, int)


def test_limits_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLEXEC_LIMITS", '{"wall_seconds": 2, "pids": 5}')
    limits = load_settings().default_limits
    assert (limits.wall_seconds, limits.pids) == (2, 5)


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("PROFILE", "none", "profile"),
        ("ALLOW_UNSAFE", "perhaps", "allow_unsafe"),
        ("WORKERS", "0", "workers"),
        ("WORKERS", "many", "workers"),
        ("POOL_SIZE", "-1", "pool_size"),
        ("POOL_IDLE_SECONDS", "0", "pool_idle_seconds"),
        ("POOL_IDLE_SECONDS", "nan", "pool_idle_seconds"),
        ("LIMITS__WALL_SECONDS", "0", "limits"),
        ("LIMITS__WALL_SECONDS", "nan", "limits"),
        ("LIMITS__WALL_SECONDS", "soon", "limits"),
        ("LIMITS__MEMORY_BYTES", "1.5", "limits"),
        ("LIMITS__NONE", "1", "limits"),
        ("LIMITS", "not JSON", "limits"),
        ("LIMITS", "[1]", "limits"),
    ],
)
def test_a_wrong_value_in_the_environment_is_named(
    name: str, value: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TOOLEXEC_{name}", value)
    with pytest.raises(InvalidRequest, match=rf"setting {where}|{where}"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('profile = "none"', "profile"),
        ("allow_unsaf = true", "allow_unsaf"),
        ("workers = 0", "workers"),
        ("[limits]\nwall_seconds = -1", "limits"),
        ("[limits]\nmemory_bytes = 1.5", "limits"),
        ("[limits]\nmemory_bytes = true", "limits"),
        ("limits = 3", "limits"),
        ("profile =", r"toolexec\.toml"),
        ("\xff", r"toolexec\.toml"),
    ],
)
def test_a_wrong_value_in_the_file_is_named(folder: Path, text: str, where: str) -> None:
    (folder / "toolexec.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequest, match=where):
        load_settings()


@pytest.mark.parametrize(
    "arguments",
    [{"profile": ""}, {"workers": 0}, {"workers": 1.5}, {"pool_size": -1}, {"allow_unsafe": "maybe"}, {"unknown": 1}],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(InvalidRequest, match=f"setting {name}"):
        load_settings(**arguments)


def test_other_variables_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLEXEC_REQUIRE", "wasm")
    monkeypatch.setenv("PROFILE", "none")
    assert load_settings().profile == "standard"


def test_a_dotenv_file_is_not_read(folder: Path) -> None:
    (folder / ".env").write_text("TOOLEXEC_ALLOW_UNSAFE=1\n")
    assert not load_settings().allow_unsafe


def test_settings_cannot_be_changed_later() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.allow_unsafe = True


def test_warm_sandboxes_can_be_kept_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLEXEC_POOL_IDLE_SECONDS", "inf")
    assert load_settings().pool_idle_seconds == math.inf


def test_the_store_is_an_url_that_nothing_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().store.get_secret_value() == "memory"
    monkeypatch.setenv("TOOLEXEC_STORE", "redis://:sesame@localhost/0")
    settings = load_settings()
    assert settings.store.get_secret_value() == "redis://:sesame@localhost/0"
    assert "sesame" not in repr(settings)
    assert load_settings(store="memory").store.get_secret_value() == "memory"
