"""The operator's options for Docker: which daemon, which image, which runtime. Checked before anything is started."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gateway.errors import InvalidRequest

KIND = "docker"
DEFAULT_IMAGE = "toolexec-guest:latest"
"""What `toolexec image build` makes unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerOptions:
    """How the backend `docker` works.

    image     the guest's image, made by `toolexec image build`
    runtime   one of the daemon's runtimes, such as `runsc` (default the daemon's own default)
    host      the daemon: `unix:///…`, `tcp://…` (default $DOCKER_HOST, else the local socket)
    tls       folder with ca.pem, cert.pem and key.pem for a daemon over TCP (default $DOCKER_CERT_PATH)
    """

    image: str = DEFAULT_IMAGE
    runtime: str | None = None
    host: str | None = None
    tls: Path | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "DockerOptions":
        """Raise InvalidRequest for an option that is unknown or no text."""
        known = [field.name for field in fields(cls)]
        for name, value in options.items():
            if name not in known:
                raise InvalidRequest(f"unknown option {name!r} of backend docker; there are {', '.join(known)}")
            if not isinstance(value, str | Path) or not str(value):
                raise InvalidRequest(f"option {name} of backend docker must be text, not {value!r}")
        tls = options.get("tls")
        return cls(**{**options, **({} if tls is None else {"tls": Path(tls)})})


def build_command(image: str) -> str:
    """The command that makes this image."""
    return "toolexec image build" if image == DEFAULT_IMAGE else f"toolexec image build --tag {image}"
