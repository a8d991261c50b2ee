"""The tables beside the ledger, held against what its records say. Every function here works within one transaction.

`owner` of an execution is in no record, and leases are in none: they cannot be compared.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from gateway.journal.base import Link
from gateway.journal.ledger import Begun, Told, Verifier
from gateway.journal.listing import microseconds
from gateway.journal.reading import VERIFY_ROWS
from gateway.journal.records import CallStarted, ExecutionFinished, ExecutionStarted
from gateway.journal.rows import Rows, among, at_one_moment, rows_of

BLOB_ROWS = 8
"""Blobs may be megabytes, so only a few are held at a time."""


class Listed(NamedTuple):
    """An execution as `journal_executions` has it, times in microseconds; by default a call of the host itself."""

    tenant_id: str
    started_at: int
    language: str = ""
    profile: str = ""
    backend: str = ""
    mode: str = "host"
    parent: str = ""
    outcome: str = ""
    ended_at: int | None = None


class Said(NamedTuple):
    """A record of an execution, as it is kept."""

    sequence: int
    kind: str
    content: bytes


def check_told(rows: Rows, verifier: Verifier, told: Told) -> None:
    """What some records say must be in the other tables, unless it was deleted since they were read."""
    at_one_moment(rows)
    references = list(told.blobs.items())
    for start in range(0, len(references), VERIFY_ROWS):
        _check_references(rows, verifier, dict(references[start : start + VERIFY_ROWS]))
    _check_begun(rows, verifier, told.begun)


def check_blobs(rows: Rows, verifier: Verifier, digest_of: Callable[[bytes], str], after: str) -> str | None:
    """The next blobs after this digest must be what their digests and sizes say; the last of them, None at the end."""
    found = rows.fetch(
        "SELECT sha256, size_bytes, data FROM journal_blobs WHERE sha256 > :after ORDER BY sha256 LIMIT :limit",
        {"after": after, "limit": BLOB_ROWS},
    )
    for digest, size_bytes, data in found:
        if not isinstance(data, bytes) or digest_of(data) != digest:
            verifier.find("", 0, f"the data {digest} was changed")
        elif len(data) != size_bytes:
            verifier.find("", 0, f"the data {digest} is listed with {size_bytes} bytes and has {len(data)}")
    return found[-1][0] if found else None


def check_index(rows: Rows, verifier: Verifier, after: str) -> str | None:
    """The next executions must be listed as their records say; the last of them, None at the end.

    When a call of the host itself began is compared where its record is read, not here: see `check_told`.
    """
    at_one_moment(rows)
    found = rows.fetch(
        f"SELECT execution_id, mode = 'host' AND EXISTS (SELECT 1 FROM journal_records r WHERE r.execution_id = "
        f"e.execution_id AND r.kind = 'call_started' AND r.content IS NOT NULL), {', '.join(Listed._fields)} "
        "FROM journal_executions e WHERE execution_id > :after ORDER BY execution_id LIMIT :limit",
        {"after": after, "limit": VERIFY_ROWS},
    )
    said = _said(rows, [row[0] for row in found])
    for execution_id, is_called, *columns in found:
        listed = Listed(*columns)
        called = Listed(listed.tenant_id, listed.started_at) if is_called else None
        if listed != _made_of(said[execution_id], called):
            _find_misfit(verifier, execution_id, listed, _made_of(_all_said(rows, execution_id)))
    return found[-1][0] if found else None


def _find_misfit(verifier: Verifier, execution_id: str, listed: Listed, made: Listed | None) -> None:
    columns = zip(Listed._fields, listed, made or (), strict=False)
    what = "start" if made is None else next((name for name, one, other in columns if one != other), "")
    if what:
        verifier.find(
            listed.tenant_id, 0, f"execution {execution_id} is listed with another {what} than its records say"
        )


def _check_references(rows: Rows, verifier: Verifier, wanted: Mapping[tuple[str, str], Link]) -> None:
    """Blobs that records hold by digest only must be there, and noted as used: else retention would delete them."""
    flaws = dict.fromkeys(_unused(rows, [*wanted]), "not noted as in use")
    missing = _missing(rows, {digest for _, digest in wanted})
    flaws |= {key: "missing" for key in wanted if key[1] in missing}
    kept = _kept(rows, [wanted[key] for key in flaws])
    for key, what in flaws.items():
        link = wanted[key]
        if (link.tenant_id, link.sequence) in kept:
            verifier.find(link.tenant_id, link.sequence, f"the data {key[1]} that it refers to is {what}")


def _unused(rows: Rows, uses: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that are not noted."""
    binds: dict[str, Any] = {}
    found = rows.fetch(
        f"WITH wanted (execution_id, sha256) AS ({rows_of(uses, binds)}) SELECT w.execution_id, w.sha256 FROM wanted w "
        "WHERE NOT EXISTS (SELECT 1 FROM journal_blob_uses u WHERE u.execution_id = w.execution_id "
        "AND u.sha256 = w.sha256)",
        binds,
    )
    return [(row[0], row[1]) for row in found]


def _missing(rows: Rows, digests: set[str]) -> set[str]:
    binds: dict[str, Any] = {}
    there = rows.fetch(f"SELECT sha256 FROM journal_blobs WHERE {among('sha256', [*digests], binds)}", binds)
    return digests - {row[0] for row in there}


def _kept(rows: Rows, links: Sequence[Link]) -> set[tuple[str, int]]:
    """Places of those whose content is there still."""
    if not links:
        return set()
    binds: dict[str, Any] = {}
    places = rows_of([(link.tenant_id, link.sequence) for link in links], binds)
    found = rows.fetch(
        f"WITH wanted (tenant_id, sequence) AS ({places}) SELECT w.tenant_id, w.sequence FROM wanted w "
        "JOIN journal_records r ON r.tenant_id = w.tenant_id AND r.sequence = w.sequence WHERE r.content IS NOT NULL",
        binds,
    )
    return {(row[0], row[1]) for row in found}


def _check_begun(rows: Rows, verifier: Verifier, begun: Mapping[str, Begun]) -> None:
    """Executions that began must be listed, calls of the host itself from when they began."""
    binds: dict[str, Any] = {}
    found = rows.fetch(
        f"SELECT execution_id, {', '.join(Listed._fields)} FROM journal_executions "
        f"WHERE {among('execution_id', [*begun], binds)}",
        binds,
    )
    listed = {execution_id: Listed(*columns) for execution_id, *columns in found}
    for execution_id, (link, called_at) in begun.items():
        row = listed.get(execution_id)
        if row is None:
            if _made_of(_all_said(rows, execution_id)) is not None:
                verifier.find(link.tenant_id, link.sequence, f"execution {execution_id} began here and is not listed")
        elif row.mode == "host" and called_at is not None and row[:2] != (link.tenant_id, called_at):
            made = _made_of(_all_said(rows, execution_id))
            if made is not None and made.mode == "host":
                _find_misfit(verifier, execution_id, row, made._replace(outcome=row.outcome, ended_at=row.ended_at))


def _said(rows: Rows, execution_ids: Sequence[str]) -> Mapping[str, list[Said]]:
    """The starts and ends of each execution, in their order."""
    binds: dict[str, Any] = {}
    found = rows.fetch(
        "SELECT execution_id, sequence, kind, content FROM journal_records WHERE content IS NOT NULL "
        f"AND kind IN ('execution_started', 'execution_finished') AND {among('execution_id', execution_ids, binds)} "
        "ORDER BY sequence",
        binds,
    )
    said = defaultdict(list)
    for execution_id, *one in found:
        said[execution_id].append(Said(*one))
    return said


def _all_said(rows: Rows, execution_id: str) -> list[Said]:
    """The same of one execution with its first call, for what does not fit without it."""
    said = [*_said(rows, [execution_id])[execution_id], *_first_call(rows, execution_id)]
    return sorted(said, key=itemgetter(0))


def _first_call(rows: Rows, execution_id: str) -> list[Said]:
    """That with the index 0, most likely the first one that was recorded."""
    after = 0
    while found := rows.fetch(
        "SELECT sequence, kind, content FROM journal_records WHERE execution_id = :execution_id "
        "AND kind = 'call_started' AND content IS NOT NULL AND sequence > :after ORDER BY sequence LIMIT :limit",
        {"execution_id": execution_id, "after": after, "limit": VERIFY_ROWS},
    ):
        for one in found:
            if _made_of([Said(*one)]) is not None:
                return [Said(*one)]
        after = found[-1][0]
    return []


def _made_of(said: Iterable[Said], listed: Listed | None = None) -> Listed | None:
    """The row that these records of one execution make of `listed`, as `writing` makes it; None for none."""
    for one in said:
        try:
            listed = _gone_on(listed, one.kind, json.loads(one.content))
        except (TypeError, ValueError, KeyError, AttributeError):
            continue  # found where its content was read
    return listed


def _gone_on(listed: Listed | None, kind: str, said: Mapping[str, Any]) -> Listed | None:
    """The first record of an execution says whose it is and since when, its newest start what it is."""
    if kind == ExecutionFinished.kind:
        return listed and listed._replace(outcome=said["outcome"], ended_at=_at(said))
    first = Listed(said.get("tenant_id", ""), _at(said)) if listed is None else listed
    if kind == CallStarted.kind:
        return first if said["index"] == 0 else listed
    if kind != ExecutionStarted.kind:
        return listed
    names = said["language"], said["profile"], said["backend"], said.get("mode", "live"), said.get("parent", "")
    return Listed(first.tenant_id, first.started_at, *names)


def _at(said: Mapping[str, Any]) -> int:
    return microseconds(datetime.fromisoformat(said["at"]))
