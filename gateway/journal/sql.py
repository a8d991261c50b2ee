"""Journals in SQL: one SQLite file, or a PostgreSQL server that many hosts share."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import unquote

from gateway.errors import InvalidRequest, JournalCorrupt
from gateway.journal import leasing, pruning, reading
from gateway.journal.base import (
    EVERYTHING,
    Checkpoint,
    ExecutionFilter,
    ExecutionPage,
    ExecutionSummary,
    Lease,
    Link,
    Pruned,
    Retention,
    Verification,
)
from gateway.journal.checking import verified
from gateway.journal.codec import MalformedRecord, record_of
from gateway.journal.jobs import Keeper
from gateway.journal.listing import check_limit, check_ttl
from gateway.journal.owner import is_gone, this_process
from gateway.journal.records import Blob, Record
from gateway.journal.signing import Keys, Signer, read_private_key
from gateway.journal.sqlite import SqliteStore, Synchronous
from gateway.journal.store import Store
from gateway.journal.writing import Recorder, Write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://", "postgresql+asyncpg://")


class SqlJournal:
    """Keeps records in the database at `url`: `sqlite:///journal.db` (four slashes for an absolute path), or
    `postgresql://user@host/database`, which needs the extra `postgres`. Opened at first use; tables are made where
    they are missing. Safe for many processes at once, SQLite on one machine only.

    | option | meaning | default |
    | --- | --- | --- |
    | `synchronous` | SQLite: `full` syncs every record, `starts` all but ends of calls, `normal` none | `full` |
    | `wait_seconds` | longest wait for the database, then JournalUnavailable | 15 |
    | `host_ttl_seconds` | how long after a host's last sign its executions count as cut off | 30 |
    | `signing_key` | Ed25519: the key, or a PEM file; signs the chains (extra `ledger`) | none |
    | `sign_every`, `sign_seconds` | how many records, and how much time, stay unsigned at most | 1,000, 60 s |
    | `create` | SQLite: make the file when it is missing | True |

    Raises InvalidRequest, MissingExtra.
    """

    def __init__(
        self,
        url: str,
        *,
        synchronous: Synchronous = "full",
        wait_seconds: float = 15.0,
        host_ttl_seconds: float = 30.0,
        signing_key: "Ed25519PrivateKey | str | Path | None" = None,
        sign_every: int = 1000,
        sign_seconds: float = 60.0,
        create: bool = True,
    ) -> None:
        _check(synchronous, wait_seconds, host_ttl_seconds, sign_every, sign_seconds)
        self.owner = this_process()
        key = read_private_key(signing_key) if isinstance(signing_key, str | Path) else signing_key
        signer = None if key is None else Signer(key, sign_every, sign_seconds)
        keeper = Keeper(Recorder(self.owner, signer), host_ttl_seconds)
        self._store: Store
        if url.startswith(SQLITE):
            path = Path(unquote(url.removeprefix(SQLITE))).absolute()
            if not path.name or path.is_dir():
                raise InvalidRequest(f"the journal's URL {url!r} names no file; write it as sqlite:///journal.db")
            self._store = SqliteStore(path, keeper, synchronous=synchronous, wait_seconds=wait_seconds, create=create)
        elif url.startswith(POSTGRES):
            from gateway.journal.postgres import PostgresStore  # noqa: PLC0415 - an extra's

            self._store = PostgresStore(url, keeper, wait_seconds=wait_seconds)
        else:
            scheme = url.partition(":")[0]
            raise InvalidRequest(f"a journal is at sqlite:///FILE or postgresql://USER@HOST/DATABASE, not at {scheme}:")

    def __repr__(self) -> str:
        return f"SqlJournal({self._store.where})"

    @property
    def where(self) -> str:
        """The file, or the server and database."""
        return self._store.where

    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        await self._store.write(Write.of(records, lease))

    async def records(self, execution_id: str) -> Sequence[Record]:
        contents = await self._store.read(lambda rows: reading.contents(rows, execution_id))
        try:
            return tuple(map(record_of, contents))
        except MalformedRecord as error:
            raise JournalCorrupt(self.where, f"a record of execution {execution_id}: {error}") from error

    async def read(self, blob: Blob) -> bytes:
        if blob.data is not None:
            return blob.data
        data = await self._store.read(lambda rows: reading.blob(rows, blob.sha256))
        if Blob.of(data).sha256 != blob.sha256:
            raise JournalCorrupt(self.where, f"the data {blob.sha256} was changed")
        return data

    async def put(self, execution_id: str, data: bytes) -> Blob:
        blob = Blob.of(data)
        await self._store.write(Write((), (), data=(execution_id, {blob.sha256: data})))
        return blob.without_data()

    async def execution(self, execution_id: str) -> ExecutionSummary | None:
        return await self._store.read(lambda rows: reading.execution(rows, execution_id))

    async def executions(
        self, which: ExecutionFilter = EVERYTHING, *, limit: int = 100, cursor: str | None = None
    ) -> ExecutionPage:
        check_limit(limit)
        return await self._store.read(lambda rows: reading.executions(rows, which, limit, cursor))

    async def unfinished(self) -> Sequence[ExecutionSummary]:
        return await self._store.read(lambda rows: reading.unfinished(rows, is_gone))

    async def lease(self, execution_id: str, owner: str, ttl_seconds: float) -> Lease:
        check_ttl(ttl_seconds)
        return await self._store.step(lambda rows: leasing.lease(rows, execution_id, owner, ttl_seconds, self.owner))

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        check_ttl(ttl_seconds)
        return await self._store.step(lambda rows: leasing.renew(rows, lease, ttl_seconds))

    async def release(self, lease: Lease) -> None:
        await self._store.step(lambda rows: leasing.release(rows, lease))

    async def links(self, after: tuple[str, int] = ("", 0), limit: int = 1000) -> Sequence[Link]:
        return await self._store.read(lambda rows: reading.links(rows, after, limit))

    async def verify(self, checkpoints: Sequence[Checkpoint] = (), keys: Keys | None = None) -> Verification:
        """With `keys`, each signature must be by one of them, and each chain have one."""
        return await verified(self._store, checkpoints, keys)

    async def prune(self, retention: Retention) -> Pruned:
        total = pruning.NOTHING
        while (part := await self._store.step(lambda rows: pruning.prune(rows, retention))).executions:
            total = pruning.total_of(total, part)
        return total

    async def aclose(self) -> None:
        await self._store.aclose()


def _check(synchronous: str, *bounds: float) -> None:
    if synchronous not in get_args(Synchronous):
        raise InvalidRequest(f"synchronous must be full, starts or normal, not {synchronous!r}")
    if not all(0 < bound < math.inf for bound in bounds):
        raise InvalidRequest("times and counts of a journal must be more than 0 and finite")
