"""Real servers on loopback, each started when a test first asks for it and gone with the tests, however those end.

They run in a temporary folder of their own, on a free port and with a password, from what the system has installed:
`.ci/services` installs it. `stop`, `start` and `restart` are for tests in which a server goes away.
"""

import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar, TypeVar

import asyncpg
import pytest

from tests.conftest import require

USER = DATABASE = "toolexec"
PASSWORD = "only-for-tests"
START_SECONDS = 40.0
_FOLDERS = "toolexec-engine-"


class Engine:
    """One server process. As root it is run as `system_user`; it dies with this process even when that is killed."""

    name: ClassVar[str]
    system_user: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGKILL
    programs: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._own()
        self.install()

    @classmethod
    def missing(cls) -> str:
        """The program that is not there; empty when all are."""
        return next((program for program in cls.programs if _found(program) is None), "")

    def install(self) -> None:
        """Fill the folder with what the server needs to start."""

    def argv(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it answers. Call it in the main thread, so without `anyio.to_thread`."""
        assert threading.current_thread() is threading.main_thread(), "the server would die with this thread"
        with self.log.open("ab") as log:
            command = [*_as_user(self.system_user), f"--pdeathsig={self.stop_signal.name[3:]}", "--", *self.argv()]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)
        given_up = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > given_up:
                self.stop()
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self.stop_signal)
            self._process.wait(30)
            self._process = None

    def restart(self) -> None:
        """Break every connection and come back on the same port."""
        self.stop()
        self.start()

    def run(self, *command: str) -> None:
        """One program, as the server's user and in its folder."""
        argv = [*_as_user(self.system_user), "--", *command]
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)  # servers refuse keys that others can read
        self._own()
        return path

    def _own(self) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam(self.system_user)
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)


_E = TypeVar("_E", bound=Engine)


class Postgres(Engine):
    """`url` is SQLAlchemy's; TLS is offered with a certificate for 127.0.0.1 that `ca_file` vouches for."""

    name = "postgres"
    system_user = "postgres"
    stop_signal = signal.SIGQUIT  # its immediate shutdown, which leaves no shared memory behind
    programs = ("setpriv", "openssl", "initdb", "postgres")

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "server.crt"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def install(self) -> None:
        _certificate(self)
        password = self.write("password", PASSWORD)
        options = ("--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8")
        self.run(_program("initdb"), *options, f"--username={USER}", f"--pwfile={password}", str(self._data))
        # A database of the user's own name, made without a server that anybody could meet.
        argv = [*_as_user(self.system_user), "--", _program("postgres"), "--single", "-D", str(self._data), "postgres"]
        subprocess.run(argv, input=f"CREATE DATABASE {DATABASE}\n", text=True, capture_output=True, check=True)

    def argv(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": 50,
            "ssl": "on",
            "ssl_cert_file": self.ca_file,
            "ssl_key_file": self.folder / "server.key",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [_program("postgres"), "-D", str(self._data), *options]

    def is_ready(self) -> bool:
        # The port answers before the database does; the last line of this file says when both do.
        with contextlib.suppress(OSError):
            return (self._data / "postmaster.pid").read_text().rstrip().endswith("ready")
        return False

    def stop(self) -> None:
        super().stop()
        (self._data / "postmaster.pid").unlink(missing_ok=True)


class MariaDB(Engine):
    """`url` is SQLAlchemy's; TLS is offered with a certificate for 127.0.0.1 that `ca_file` vouches for."""

    name = "mariadb"
    system_user = "mysql"
    programs = ("setpriv", "openssl", "mariadb-install-db", "mariadbd")

    @property
    def url(self) -> str:
        return f"mysql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "server.crt"

    def install(self) -> None:
        _certificate(self)
        account = f"'{USER}'@'127.0.0.1'"
        self.write(
            "init.sql",
            f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4;\n"
            f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {account};\n",
        )
        options = ("--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db")
        self.run(_program("mariadb-install-db"), *options, f"--datadir={self.folder / 'data'}")

    def argv(self) -> list[str]:
        settings = {
            "datadir": self.folder / "data",
            "bind-address": "127.0.0.1",
            "port": self.port,
            "socket": self.folder / "socket",
            "pid-file": self.folder / "pid",
            "init-file": self.folder / "init.sql",
            "ssl-cert": self.ca_file,
            "ssl-key": self.folder / "server.key",
            "innodb-flush-log-at-trx-commit": 0,
            "local-infile": 1,
        }
        return [_program("mariadbd"), "--no-defaults", *(f"--{name}={value}" for name, value in settings.items())]

    def is_ready(self) -> bool:
        return answers(self.port, b"")  # it greets first, once it has read its init file


class Redis(Engine):
    """`url` is that of redis-py. Nothing is kept on disk."""

    name = "redis"
    system_user = "redis"
    programs = ("setpriv", "redis-server")

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def argv(self) -> list[str]:
        network = ("--bind", "127.0.0.1", "--port", str(self.port))
        return [_program("redis-server"), *network, "--requirepass", PASSWORD, "--save", "", "--appendonly", "no"]

    def is_ready(self) -> bool:
        return answers(self.port, b"PING\r\n")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running(Postgres) as server:
        yield server


@pytest.fixture
async def journal_server(postgres: Postgres) -> AsyncIterator[Postgres]:
    """For journals: none of their tables are there before, or left after."""
    await without_tables(postgres)
    yield postgres
    await without_tables(postgres)


async def without_tables(server: Postgres) -> None:
    connection = await asyncpg.connect(server.url)
    found = await connection.fetch("SELECT tablename FROM pg_tables WHERE tablename LIKE 'journal\\_%'")
    for (name,) in found:
        await connection.execute(f"DROP TABLE {name}")
    await connection.close()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    with running(MariaDB) as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    with running(Redis) as server:
        yield server


@contextlib.contextmanager
def running(kind: type[_E]) -> Iterator[_E]:
    program = kind.missing()
    if program:
        require(kind.name, f"{program} is not installed; .ci/services installs it")
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDERS}{os.getpid()}-"))
    try:
        server = kind(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _remove_leftovers() -> None:
    """Folders of test runs that were killed; their servers died with them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        if not Path("/proc", folder.name.removeprefix(_FOLDERS).partition("-")[0]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _certificate(server: Engine) -> None:
    files = ("-keyout", str(server.folder / "server.key"), "-out", str(server.folder / "server.crt"))
    names = ("-subj", "/CN=toolexec tests", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    server.run("openssl", "req", "-x509", "-days", "2", *key, *names, *files)


def _as_user(user: str) -> list[str]:
    """The start of a command that `setpriv` runs as `user`; as whoever we are when we are not root."""
    argv = ["setpriv"]
    if os.geteuid() == 0:
        group = grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
        argv += [f"--reuid={user}", f"--regid={group}", "--init-groups"]
    return argv


def _program(name: str) -> str:
    path = _found(name)
    assert path is not None, name
    return path


def _found(name: str) -> str | None:
    """Debian keeps PostgreSQL's programs out of the PATH, one folder for each version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def answers(port: int, question: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(question)
            return bool(connection.recv(1))
    except OSError:
        return False
