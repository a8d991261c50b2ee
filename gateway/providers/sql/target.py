"""Where a database is, how it is reached, and what its connections may do."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from gateway.errors import InvalidRequest
from gateway.policies.destinations import Destination
from gateway.policies.egress import DEFAULT_PORTS, Egress

Tls: TypeAlias = Literal["verify", "encrypt", "off"]

CONNECT_SECONDS = 10.0
"""For a connection to a server to be made and signed in."""

_DRIVERS = {
    # what an URL begins with: the dialect as sqlglot calls it, the driver, our extra
    "sqlite": ("sqlite", "aiosqlite", "sql"),
    "sqlite+aiosqlite": ("sqlite", "aiosqlite", "sql"),
    "postgres": ("postgres", "asyncpg", "postgres"),
    "postgresql": ("postgres", "asyncpg", "postgres"),
    "postgresql+asyncpg": ("postgres", "asyncpg", "postgres"),
    "mysql": ("mysql", "aiomysql", "mysql"),
    "mariadb": ("mysql", "aiomysql", "mysql"),
    "mysql+aiomysql": ("mysql", "aiomysql", "mysql"),
    "mariadb+aiomysql": ("mysql", "aiomysql", "mysql"),
    "mysql+asyncmy": ("mysql", "asyncmy", "mysql"),
    "mariadb+asyncmy": ("mysql", "asyncmy", "mysql"),
}
_SYSTEMS = {"sqlite": "sqlite", "postgres": "postgresql", "mysql": "mysql"}  # as OpenTelemetry calls them
_QUERY: dict[str, frozenset[str]] = {
    "sqlite": frozenset(),
    "postgres": frozenset({"host"}),
    "mysql": frozenset({"unix_socket"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a database is and what its connections may do. Raises InvalidRequest."""

    url: URL = field(repr=False)
    password: Callable[[], str] = field(repr=False)
    read_only: bool
    statement_timeout_seconds: float
    pool_size: int
    pool_wait_seconds: float
    tls: Tls
    ca_file: Path | None
    max_rows: int
    egress: Egress = field(default_factory=Egress)

    @property
    def scheme(self) -> str:
        """What rules of egress call it: sqlite, postgresql, mysql or mariadb."""
        name = self.url.drivername.partition("+")[0]
        return "postgresql" if name == "postgres" else name

    @property
    def host(self) -> str:
        """`localhost` for a socket, empty for a file."""
        return "" if self.dialect == "sqlite" else self.url.host or "localhost"

    @property
    def port(self) -> int:
        return self.url.port or DEFAULT_PORTS.get(self.scheme, 0)

    @property
    def socket_path(self) -> str:
        """Of a socket on this machine; empty for a server that is reached over the network."""
        return str(next(iter(self.url.query.values()), ""))

    @property
    def dialect(self) -> str:
        """As sqlglot calls it: sqlite, postgres or mysql."""
        return _DRIVERS[self.url.drivername][0]

    @property
    def driver(self) -> str:
        return _DRIVERS[self.url.drivername][1]

    @property
    def extra(self) -> str:
        return _DRIVERS[self.url.drivername][2]

    @property
    def is_memory(self) -> bool:
        return self.dialect == "sqlite" and self.url.database in (None, "", ":memory:")

    @property
    def attributes(self) -> dict[str, str]:
        """For a span: what answers, and which database; an SQLite file by its name, without the host's folders."""
        name = self.url.database or ":memory:"
        where = {"db.namespace": Path(name).name if self.dialect == "sqlite" else name}
        host = {} if self.dialect == "sqlite" else {"server.address": self.host}
        return {"db.system.name": _SYSTEMS[self.dialect], "db.driver": self.driver} | where | host

    def destination(self, tables: frozenset[str] | None, verbs: frozenset[str] | None) -> Destination:
        """Where a call goes that uses these tables in these ways."""
        database = Path(self.url.database or ":memory:").name if self.dialect == "sqlite" else self.url.database or ""
        return Destination(
            scheme=self.scheme, host=self.host, port=self.port, database=database, tables=tables, operations=verbs
        )

    def check(self) -> None:
        """Raises InvalidRequest for what does not fit together."""
        if self.tls not in ("verify", "encrypt", "off"):
            raise InvalidRequest(f"tls must be verify, encrypt or off, not {self.tls!r}")
        if self.is_memory and self.read_only:
            raise InvalidRequest("an in-memory database is empty and can only be filled with read_only=False")
        if self.driver == "asyncmy" and self.tls != "off":
            raise InvalidRequest("asyncmy goes on in the clear where a server offers no TLS; use mysql:// or tls='off'")

    def __str__(self) -> str:
        """For errors, which guests read: without user and password, and without the host's folders."""
        if self.dialect == "sqlite":
            return f"the SQLite database {Path(self.url.database or ':memory:').name}"
        port = f":{self.url.port}" if self.url.port else ""
        return f"the database {self.url.database} at {_host(self.url) or 'its socket'}{port}"


def parse_url(text: str) -> URL:
    """Raises InvalidRequest, without showing the URL: it may have a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InvalidRequest("the database URL cannot be read; write it as postgresql://user@host/database") from None
    if url.drivername not in _DRIVERS:
        raise InvalidRequest(f"no driver for {url.drivername}:// databases; known are {', '.join(_DRIVERS)}")
    dialect = _DRIVERS[url.drivername][0]
    unknown = set(url.query) - _QUERY[dialect]
    if unknown:
        names = ", ".join(sorted(unknown))
        raise InvalidRequest(f"{names} in the database URL is not taken; SqlDatabase has arguments for what it takes")
    if any(not str(path).startswith("/") for path in url.query.values()):
        raise InvalidRequest("host and unix_socket after the ? are the path of a socket; other hosts go before it")
    if dialect != "sqlite" and not url.database:
        raise InvalidRequest("the database URL names no database")
    return url


def default_tls(url: URL) -> Tls:
    """Verified unless the connection stays on this machine."""
    if _DRIVERS[url.drivername][0] == "sqlite" or url.query or _is_loopback(_host(url)):
        return "off"
    return "verify"


def own_server(url: URL) -> Egress:
    """For a server of the operator's own, such as a journal's: rules of egress are for what tools reach."""
    return Egress((url.host or "localhost", "0.0.0.0/0", "::/0"))


def origin_url(target: Target) -> str:
    """The server alone, as rules of egress have it."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{target.scheme}://{host}:{target.port}"


def _host(url: URL) -> str:
    return url.host or ("" if url.query else "localhost")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
