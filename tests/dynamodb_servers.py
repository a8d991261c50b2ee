"""Two servers that speak DynamoDB, from PyPI: ministack, and moto's as a second opinion. See tests/engines.py."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.engines import Engine, answers, running

PROGRAMS = Path(sys.executable).parent


class DynamoDbServer(Engine):
    """`url` is its endpoint."""

    system_user = "root"  # as whoever runs the tests: these are no servers that mind

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    def missing(cls) -> str:
        return next((program for program in cls.programs if shutil.which(program, path=str(PROGRAMS)) is None), "")

    def is_ready(self) -> bool:
        return answers(self.port, b"GET / HTTP/1.0\r\n\r\n")


class Ministack(DynamoDbServer):
    name = "ministack"
    programs = ("ministack",)
    _environment: ClassVar[tuple[str, ...]] = (
        "BIND_HOST=127.0.0.1",  # its default is every interface
        "SERVICES=dynamodb",
        "IOT_MTLS_ENABLED=0",
        "SFTP_ENABLED=0",
        "DOCKER_HOST=unix:///nonexistent",  # it removes containers when it finds a daemon
    )

    def argv(self) -> list[str]:
        return ["/usr/bin/env", *self._environment, f"GATEWAY_PORT={self.port}", str(PROGRAMS / "ministack")]


class Moto(DynamoDbServer):
    name = "moto"
    programs = ("moto_server",)

    def argv(self) -> list[str]:
        return [str(PROGRAMS / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]


@pytest.fixture(scope="session", params=[Ministack, Moto], ids=lambda kind: kind.name)
def dynamodb_server(request: pytest.FixtureRequest) -> Iterator[DynamoDbServer]:
    with running(request.param) as server:
        yield server
