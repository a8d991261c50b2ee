"""Database URLs and options: what is taken, and that nothing shows a password."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import InvalidRequest
from gateway.providers.sql import SqlDatabase
from gateway.providers.sql.target import default_tls, parse_url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("no url", "cannot be read"),
        ("oracle://u:secret@h/d", "no driver for oracle"),
        ("postgresql+psycopg2://u:secret@h/d", "no driver for"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h/d?sslmode=disable", "sslmode in the database URL is not taken"),
        ("mysql://u:secret@h/d?charset=gbk", "charset"),
        ("mysql://u:secret@h/d?local_infile=1", "local_infile"),
        ("sqlite:///file?mode=rwc&uri=true", "mode, uri"),
        ("mysql://u:secret@h:port/d", "cannot be read"),
        ("postgresql://u:secret@/d?host=db.example.com", "path of a socket"),
        ("postgresql://u:secret@/d?host=/run/a&host=db.example.com", "path of a socket"),
    ],
)
def test_urls_that_are_not_taken(url: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        SqlDatabase(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"pool_size": -1}, "pool_size must be at least 1"),
        ({"statement_timeout_seconds": 0}, "statement_timeout_seconds must be above 0"),
        ({"statement_timeout_seconds": float("inf")}, "finite"),
        ({"pool_wait_seconds": -1}, "pool_wait_seconds must be above 0"),
        ({"tls": "maybe"}, "tls must be verify, encrypt or off"),
    ],
)
def test_options_that_are_not_taken(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        SqlDatabase("postgresql://u@localhost/d", **options)


def test_an_in_memory_database_has_to_be_filled() -> None:
    with pytest.raises(InvalidRequest, match="read_only=False"):
        SqlDatabase("sqlite://")


def test_asyncmy_would_fall_back_to_no_tls() -> None:
    with pytest.raises(InvalidRequest, match="in the clear"):
        SqlDatabase("mysql+asyncmy://u@db.example.com/d")
    SqlDatabase("mysql+asyncmy://u@127.0.0.1/d")


@pytest.mark.parametrize(
    ("url", "tls"),
    [
        ("postgresql://u@db.example.com/d", "verify"),
        ("mysql://u@10.0.0.1/d", "verify"),
        ("postgresql://u@localhost.example.com/d", "verify"),
        ("postgresql://u@127.0.0.1/d", "off"),
        ("postgresql://u@[::1]/d", "off"),
        ("postgresql://u@/d?host=/run/postgresql", "off"),
        ("mysql://u@/d?unix_socket=/run/mysqld.sock", "off"),
        ("mysql://u@localhost/d", "off"),
        ("sqlite:///x", "off"),
    ],
)
def test_tls_is_verified_unless_the_connection_stays_here(url: str, tls: str) -> None:
    assert default_tls(parse_url(url)) == tls


def asked() -> str:
    raise AssertionError("asked before it is needed")


@pytest.mark.parametrize("password", ["secret", asked])
def test_nothing_shows_the_password(password: str | Callable[[], str]) -> None:
    database = SqlDatabase("postgresql://u:secret@localhost/d", password=password)
    tool = database.query_tool("db:query")
    assert "secret" not in f"{database!r} {tool!r} {tool.provider!r} {vars(database)!r}"


def test_what_may_write_is_not_said_to_read_only() -> None:
    writer = SqlDatabase("sqlite:///x.db", read_only=False)
    with pytest.raises(InvalidRequest, match="a may write; leave read_only out"):
        writer.tool("a", "DELETE FROM t", read_only=True)
    with pytest.raises(InvalidRequest, match="a may write; leave read_only out"):
        writer.query_tool("a", read_only=True)
    assert writer.tool("a", "SELECT 1", read_only=True).read_only is True
    assert writer.tool("a", "SELECT 1", read_only=False).read_only is False
    assert writer.tool("a", "DELETE FROM t", read_only=None).read_only is None
