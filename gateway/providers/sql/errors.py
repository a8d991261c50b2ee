"""What went wrong in a database, as one of our errors. The texts of drivers pass through here and nowhere else."""

import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import exc

from gateway.errors import InvalidInput, InvalidOutput, SandboxError, ToolFailed, ToolTimeout, ToolUnavailable

_MAX_TEXT = 500

_LATER = frozenset(
    {
        # PostgreSQL's SQLSTATEs: connection, resources, shutting down or starting up, conflicts, locks.
        *("08", "53", "57P01", "57P02", "57P03", "40001", "40P01", "55P03", "55006"),
        # MySQL's numbers: too many connections, shutting down, lock waits, deadlocks, connections that are gone.
        *("1040", "1053", "1203", "1205", "1213", "1226", "1927", "2002", "2003", "2006", "2013", "2055", "4031"),
        *("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL"),
    }
)
_TIMEOUT = frozenset({"57014", "1317", "1969", "3024", "SQLITE_INTERRUPT"})
_MISFIT = frozenset({"22", "1264", "1265", "1292", "1366", "1367", "1406", "1411", "1690", "SQLITE_MISMATCH"})
"""Values that do not fit their column or function."""

_FOREIGN = (exc.SQLAlchemyError, sqlite3.Error, OSError, EOFError, OverflowError, UnicodeError)
_DRIVERS = frozenset({"asyncpg", "aiomysql", "asyncmy", "pymysql"})  # SQLAlchemy lets some of their errors through


@dataclass(frozen=True, slots=True)
class Call:
    """What an error says besides the driver's words."""

    tool_id: str
    database: str
    timeout_seconds: float


@contextmanager
def translating(call: Call) -> Iterator[None]:
    """Within, what a driver raises comes out as one of ours."""
    try:
        yield
    except Exception as error:
        told = translated(error, call)
        if told is None:
            raise
        raise told from error


def translated(error: Exception, call: Call) -> SandboxError | None:
    """The error of ours that says what the caller can do about it; None for one that no driver raised."""
    if not isinstance(error, _FOREIGN) and type(error).__module__.partition(".")[0] not in _DRIVERS:
        return None
    if isinstance(error, exc.TimeoutError):
        return ToolUnavailable(call.database, "all of its connections are in use")
    driver = _driver_error(error)
    text, code = _text(driver), _code(driver)
    if isinstance(driver, UnicodeDecodeError) or "Could not decode to UTF-8" in text:
        return InvalidOutput(f"a text in the database is not UTF-8; select it as bytes ({text})")
    if _is_among(code, _TIMEOUT):
        return ToolTimeout(call.tool_id, call.timeout_seconds)
    if _is_gone(error) or _is_among(code, _LATER):
        return ToolUnavailable(call.database, text)
    details = {"type": type(driver).__name__} | ({_code_name(code): code} if code else {})
    if _is_among(code, _MISFIT) or _is_misfit(driver):
        return InvalidInput(f"a value does not fit: {text}", details=details)
    return ToolFailed(f"{call.database} refused: {text}", details=details)


def _is_gone(error: Exception) -> bool:
    """Whether the connection broke, or was never made."""
    driver = _driver_error(error)
    if isinstance(driver, ssl.SSLCertVerificationError):
        return False
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    gone = ("ConnectionDoesNotExistError", "InvalidCachedStatementError")
    return isinstance(driver, OSError | EOFError) or type(driver).__name__ in gone


def _driver_error(error: BaseException) -> BaseException:
    """SQLAlchemy wraps the adapter's error, which wraps the driver's; only that one has the fields we look at.

    A certificate that is not trusted is what matters, however deep it is buried: it will not be trusted later either.
    """
    chain = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__) is not None and below not in chain:
        chain.append(below)
    untrusted = next((found for found in chain if isinstance(found, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        return untrusted
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    cause = error.__cause__
    return cause if cause is not None and type(error).__module__.startswith("sqlalchemy.") else error


def _is_misfit(driver: BaseException) -> bool:
    """Drivers refuse values before they send them: asyncpg by its DataError, sqlite3 by these."""
    return isinstance(driver, OverflowError) or type(driver).__name__ == "DataError"


def _code(driver: BaseException) -> str:
    """SQLSTATE of PostgreSQL, the number of MySQL, the name of SQLite; empty when there is none."""
    if driver.args and isinstance(driver.args[0], int) and not isinstance(driver, OSError):
        return str(driver.args[0])
    named: str | None = getattr(driver, "sqlstate", None) or getattr(driver, "sqlite_errorname", None)
    return named or ""


def _is_among(code: str, kinds: frozenset[str]) -> bool:
    """Two characters in `kinds` stand for the whole class of an SQLSTATE."""
    return code in kinds or (len(code) == 5 and code[:2] in kinds)


def _code_name(code: str) -> str:
    if code.startswith("SQLITE_"):
        return "sqlite_error"
    return "sqlstate" if len(code) == 5 else "mysql_error"


def _text(driver: BaseException) -> str:
    words = driver.args[1] if len(driver.args) > 1 and isinstance(driver.args[0], int) else driver
    return str(words).partition("\n")[0][:_MAX_TEXT] or type(driver).__name__
