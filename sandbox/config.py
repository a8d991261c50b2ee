"""Settings: from arguments, then `toolexec.toml` in the working folder, then `TOOLEXEC_*` in the environment."""

import os
import tomllib
from functools import cached_property
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from gateway.errors import InvalidRequest
from gateway.journal.opening import MEMORY
from runtimes.limits import DEFAULT_LIMITS, Limits
from sandbox.profile import profile_named
from sandbox.tool_settings import OriginalNames, ToolSettings


class Settings(BaseSettings):
    """How an Exec works.

    profile           what executions ask for unless they say otherwise (default standard)
    language          likewise (default python)
    limits            likewise; fields of `Limits`, the defaults of `DEFAULT_LIMITS` where not set
    allow_unsafe      whether profile dev may use a backend without isolation (default no)
    workers           worker processes a backend may keep (default: one per core)
    pool_size         warm sandboxes of each backend (default: the backend's own choice; 0 keeps none)
    pool_idle_seconds how long warm sandboxes are kept that nobody wants (default 600; `inf` keeps them for good)
    journal           where records are kept: `sqlite:///FILE`, `postgresql://USER@HOST/DATABASE` or `memory` (default)
    store             where policies keep what processes share: `memory`, or a URL with redis://, postgresql:// or sqlite:///
    backend_options   options of single backends, by kind: `{"docker": {"image": "…"}}`; each backend says what it takes
    metrics           whether calls and executions are counted for Prometheus (default no)
    tools             policies around tools: see `ToolSettings`
    """

    model_config = SettingsConfigDict(
        env_prefix="TOOLEXEC_",
        env_nested_delimiter="__",
        toml_file="toolexec.toml",
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
    )

    profile: str = "standard"
    language: str = "python"
    limits: dict[str, Any] = Field(default_factory=dict)
    allow_unsafe: bool = False
    workers: int = Field(default_factory=lambda: max(1, os.cpu_count() or 1), ge=1)
    pool_size: int | None = Field(default=None, ge=0)
    pool_idle_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=True)
    journal: SecretStr = SecretStr(MEMORY)
    store: SecretStr = SecretStr("memory")
    backend_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    metrics: bool = False
    tools: ToolSettings = Field(default_factory=ToolSettings)

    @field_validator("profile")
    @classmethod
    def _known(cls, profile: str) -> str:
        return profile_named(profile).name

    @field_validator("limits")
    @classmethod
    def _valid(cls, limits: dict[str, Any]) -> dict[str, Any]:
        numbers = {name: float(value) if isinstance(value, str) else value for name, value in limits.items()}
        return Limits.of({name: _whole(name, value) for name, value in numbers.items()}).asked()  # type: ignore[return-value]  # keys are LimitName

    @cached_property
    def default_limits(self) -> Limits:
        return Limits.of(self.limits).over(DEFAULT_LIMITS)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings  # not ours to read
        return init_settings, TomlConfigSettingsSource(settings_cls), env_settings, OriginalNames(settings_cls)


def load_settings(**arguments: Any) -> Settings:
    """Settings with these arguments on top; None means not given. Raise InvalidRequest."""
    try:
        return Settings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise InvalidRequest(f"setting {where}: {first['msg']}") from error
    except SettingsError as error:
        raise InvalidRequest(f"a setting in the environment: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"toolexec.toml in the working folder is not TOML: {error}") from error


def _whole(name: str, value: Any) -> Any:
    """Environment values are text; a whole number of bytes or calls is an int."""
    return int(value) if isinstance(value, float) and value.is_integer() and not name.endswith("_seconds") else value
