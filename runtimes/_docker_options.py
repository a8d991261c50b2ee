"""The operator's options for Docker: which daemon, which image, which runtime. Checked before anything is started."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gateway.endpoint import TlsPort
from gateway.errors import InvalidRequest

KIND = "docker"
DEFAULT_IMAGE = "toolexec-guest:latest"
"""What `toolexec image build` makes unless told otherwise."""


DEFAULT_DAEMON = "unix:///var/run/docker.sock"
LOOPBACKS = ("tcp://127.0.0.1:", "tcp://localhost:", "tcp://[::1]:")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerOptions:
    """How the backend `docker` works.

    image     the guest's image, made by `toolexec image build`
    runtime   one of the daemon's runtimes, such as `runsc` (default the daemon's own default)
    host      the daemon: `unix:///…`, `tcp://…` (default $DOCKER_HOST, else the local socket)
    tls       folder with ca.pem, cert.pem and key.pem for a daemon over TCP (default $DOCKER_CERT_PATH)

    For a daemon on another machine, where guests cannot have a socket of this host's, all three of:

    network       an internal network of the daemon (`docker network create --internal …`): it leads to us alone
    gateway_host  the address of this host in that network
    gateway_tls   folder with ca.pem, cert.pem and key.pem, made out to `gateway_host`
    """

    image: str = DEFAULT_IMAGE
    runtime: str | None = None
    host: str | None = None
    tls: Path | None = None
    network: str | None = None
    gateway_host: str | None = None
    gateway_tls: Path | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "DockerOptions":
        """Raise InvalidRequest for an option that is unknown or no text."""
        known = [field.name for field in fields(cls)]
        for name, value in options.items():
            if name not in known:
                raise InvalidRequest(f"unknown option {name!r} of backend docker; there are {', '.join(known)}")
            if not isinstance(value, str | Path) or not str(value):
                raise InvalidRequest(f"option {name} of backend docker must be text, not {value!r}")
        paths = {name: Path(options[name]) for name in ("tls", "gateway_tls") if name in options}
        found = cls(**{**options, **paths})
        found._check()
        return found

    def _check(self) -> None:
        remote = (self.network, self.gateway_host, self.gateway_tls)
        if any(remote) and not all(remote):
            raise InvalidRequest("options network, gateway_host and gateway_tls of backend docker go together")
        if not self.daemon.startswith(("unix:///", "tcp://")):
            raise InvalidRequest(f"backend docker: the daemon must be at unix:///… or tcp://…, not {self.daemon!r}")
        if self.daemon.startswith("tcp://") and self.daemon_tls is None and not self.daemon.startswith(LOOPBACKS):
            raise InvalidRequest(
                f"backend docker: {self.daemon} without TLS is anybody's; name the folder of its keys: tls"
            )

    @property
    def daemon(self) -> str:
        """Where the daemon is."""
        return self.host or os.environ.get("DOCKER_HOST") or DEFAULT_DAEMON

    @property
    def daemon_tls(self) -> Path | None:
        """The folder with the keys for it, None for a daemon without."""
        found = os.environ.get("DOCKER_CERT_PATH") if self.daemon.startswith("tcp://") else None
        return self.tls or (Path(found) if found else None)

    def gateway_port(self) -> TlsPort | None:
        """Where guests on another machine reach us; None for guests on this host. Raises InvalidRequest."""
        if self.gateway_host is None or self.gateway_tls is None:
            return None
        try:
            ca, cert, key = ((self.gateway_tls / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem"))
        except OSError as error:
            raise InvalidRequest(f"option gateway_tls of backend docker: {error}") from error
        return TlsPort(self.gateway_host, certificate=cert, key=key, authority=ca)


def build_command(image: str) -> str:
    """The command that makes this image."""
    return "toolexec image build" if image == DEFAULT_IMAGE else f"toolexec image build --tag {image}"
