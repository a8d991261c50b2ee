"""The chain of a tenant's records: each has a hash of its content, its place and the hash of the one before it.

    hash = SHA-256 of {"content": SHA-256 of the content, "previous": hash before, "sequence": n, "tenant": tenant id}

as canonical JSON, all hashes in hex, sequences from 1, and 64 zeros before the first. The content's own hash stands
between, so that deleting a content by policy leaves the chain whole.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from typing import Any, NamedTuple

from gateway.journal.base import Checkpoint, Finding, Link, Verification
from gateway.journal.codec import references
from gateway.journal.listing import microseconds
from gateway.journal.records import CallStarted, ExecutionStarted, Record, RecordsPruned

GENESIS = "0" * 64
MAX_FINDINGS = 100
"""More are counted only: a chain that is no chain would fill the report."""

# Within a text, JSON has no quote without a backslash: these are found as keys only.
_DIGEST, _TEXT, _BASE64 = b'"sha256":"', b'"text":"', b'"base64":"'

_UNKNOWN = "\0"
"""Stands for a tool that is not kept beside its record; no column has it."""

_read = json.JSONDecoder().decode
_escaped = json.JSONEncoder(ensure_ascii=False).encode


class Head(NamedTuple):
    """Where a chain ends."""

    sequence: int = 0
    hash: str = GENESIS


class Begun(NamedTuple):
    """A record with which an execution begins; `called_at` is its time in microseconds if it is a call's."""

    link: Link
    called_at: int | None


@dataclass(slots=True)
class Told:
    """What some records say that a journal also keeps elsewhere, for it to compare.

    By execution, the first of them that begins it; by execution and digest, the first that holds a blob only by that.
    """

    begun: dict[str, Begun] = field(default_factory=dict)
    blobs: dict[tuple[str, str], Link] = field(default_factory=dict)

    def take(self, link: Link, said: dict[str, Any]) -> None:
        """The decoded content of the next record."""
        if link.kind == ExecutionStarted.kind:
            self.begun.setdefault(link.execution_id, Begun(link, None))
        elif link.kind == CallStarted.kind and said["index"] == 0:
            at = microseconds(datetime.fromisoformat(said["at"]))
            self.begun.setdefault(link.execution_id, Begun(link, at))


def kept_text(text: str) -> str:
    """As it is in a column: PostgreSQL keeps no NUL in a text."""
    return text.replace("\0", "\ufffd")


def link_hash(tenant_id: str, sequence: int, previous: str, content_sha256: str) -> str:
    """The hash of a record in its chain."""
    return hashlib.sha256(
        f'{{"content":"{content_sha256}","previous":"{previous}","sequence":{sequence},'
        f'"tenant":{_escaped(tenant_id)}}}'.encode()
    ).hexdigest()


def linked(head: Head, record: Record, content: bytes) -> Link:
    """The record as the next one after `head`."""
    digest = hashlib.sha256(content).hexdigest()
    sequence, tenant_id = head.sequence + 1, record.tenant_id
    hash_ = link_hash(tenant_id, sequence, head.hash, digest)
    return Link(tenant_id, sequence, record.execution_id, record.kind, content, digest, hash_)


class Verifier:
    """Takes the links of every chain, tenant by tenant and in their order, and finds what does not fit.

    With `forgets`, whole records may be missing: whoever keeps them says nothing of what it dropped.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint] = (), *, forgets: bool = False) -> None:
        self._forgets = forgets
        self.records = 0
        self.pruned = 0
        self._heads: list[Checkpoint] = []
        self._findings: list[Finding] = []
        self._unlisted = 0
        self._chain: _Chain | None = None
        self._signed: dict[str, set[tuple[int, str]]] | None = None
        self._unsigned: dict[str, int] = {}
        self._points: dict[str, list[Checkpoint]] = {}
        for point in checkpoints:
            self.expect(point)

    def expect(self, point: Checkpoint) -> None:
        """The chain had come to this; said before the chain is fed."""
        self._points.setdefault(point.tenant_id, []).append(point)

    def require(self, signed: Iterable[Checkpoint]) -> None:
        """Each chain must have one of these, whose signatures hold; said before any chain is fed."""
        self._signed = {}
        for point in signed:
            self._signed.setdefault(point.tenant_id, set()).add((point.sequence, point.hash))

    def stop(self, why: str) -> None:
        """What comes next cannot be read."""
        tenant_id, sequence = ("", 0) if self._chain is None else (self._chain.tenant_id, self._chain.sequence)
        self._chain = None
        self._points.clear()
        self.find(tenant_id, sequence, why)

    def feed(self, links: Sequence[Link], tools: Iterable[str | None] | None = None) -> Told:
        """The next links, and the tools that they are filed under where that is kept."""
        told = Told()
        for link, tool in zip(links, repeat(_UNKNOWN) if tools is None else tools, strict=False):
            if self._chain is None or self._chain.tenant_id != link.tenant_id:
                self._end_chain()
                self._chain = self._begin_chain(link.tenant_id)
            self.records += 1
            try:
                self._take(self._chain, link, tool, told)
            except (TypeError, ValueError, KeyError, AttributeError):
                self.find(str(link.tenant_id), int(link.sequence), "it holds what no journal writes")
        return told

    def find(self, tenant_id: str, sequence: int, what: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(tenant_id, sequence, what))
        else:
            self._unlisted += 1

    def end(self, signatures: int = 0) -> Verification:
        self._end_chain()
        for point in (point for points in self._points.values() for point in points):
            self.find(point.tenant_id, point.sequence, "the whole chain is missing")
        if self._unlisted:
            self._findings.append(Finding("", 0, f"and {self._unlisted} more"))
        unsigned = None if self._signed is None else self._unsigned
        return Verification(self.records, self.pruned, signatures, tuple(self._heads), tuple(self._findings), unsigned)

    def _take(self, chain: "_Chain", link: Link, tool: str | None, told: Told) -> None:
        for sequence, what in chain.take(link):
            self.find(link.tenant_id, sequence, what)
        if link.content is None:
            self.pruned += 1
            self._check_tool(link, tool, None)
        else:
            self._read(chain, link, tool, link.content, told)

    def _check_tool(self, link: Link, tool: str | None, said: str | None) -> None:
        if tool != said and tool is not _UNKNOWN:
            self.find(link.tenant_id, link.sequence, f"this {link.kind} is filed under another tool than its own")

    def _read(self, chain: "_Chain", link: Link, tool: str | None, content: bytes, told: Told) -> None:
        if hashlib.sha256(content).hexdigest() != link.content_sha256:
            self.find(link.tenant_id, link.sequence, f"the content of this {link.kind} was changed")
            return
        said = _read(content.decode())
        where = (said.get("tenant_id", ""), said["execution_id"], said["kind"])
        if where != (link.tenant_id, link.execution_id, link.kind):
            self.find(link.tenant_id, link.sequence, "it is filed under another tenant, execution or kind than its own")
        called = kept_text(said["tool_id"]) if link.kind == CallStarted.kind else None
        self._check_tool(link, tool, called)
        told.take(link, said)
        if link.kind == RecordsPruned.kind:
            chain.retention = said
        if content.count(_DIGEST) > content.count(_TEXT) + content.count(_BASE64):
            for digest in references(said):
                told.blobs.setdefault((link.execution_id, digest), link)

    def _begin_chain(self, tenant_id: str) -> "_Chain":
        signed = None if self._signed is None else self._signed.get(tenant_id, set())
        return _Chain(tenant_id, self._points.pop(tenant_id, ()), signed, forgets=self._forgets)

    def _end_chain(self) -> None:
        if self._chain is not None:
            for sequence, what in self._chain.end():
                self.find(self._chain.tenant_id, sequence, what)
            self._heads.append(Checkpoint(self._chain.tenant_id, self._chain.sequence, self._chain.hash))
            self._unsigned[self._chain.tenant_id] = self._chain.unsigned
            self._chain = None


class _Chain:
    """One tenant's chain, as far as it was read. `retention` is what its last record of a deletion says, `unsigned`
    how many records came since one of those that are `signed`, None when no matter."""

    def __init__(
        self, tenant_id: str, points: Iterable[Checkpoint], signed: set[tuple[int, str]] | None, *, forgets: bool
    ) -> None:
        self._forgets = forgets
        self._signed = signed
        self._needs_signature = False
        self._has_signature = False
        self.unsigned = 0
        self.tenant_id = tenant_id
        self.sequence = 0
        self.hash = GENESIS
        self.retention: dict[str, Any] | None = None
        self._first: Link | None = None
        self._emptied: list[list[int]] = []
        self._points: dict[int, list[str]] = {}
        for point in points:
            self._points.setdefault(point.sequence, []).append(point.hash)

    def take(self, link: Link) -> list[tuple[int, str]]:
        """What is wrong with the next link."""
        found = []
        if link.sequence == self.sequence + 1:
            if link_hash(link.tenant_id, link.sequence, self.hash, link.content_sha256) != link.hash:
                found.append((link.sequence, f"this {link.kind} does not follow from the record before it"))
        elif self.sequence == 0:
            self._first = link
        elif not self._forgets:
            found.append((self.sequence + 1, f"{link.sequence - self.sequence - 1} records are missing from here"))
        self.sequence, self.hash = link.sequence, link.hash
        if self._points and any(known != link.hash for known in self._points.pop(link.sequence, ())):
            found.append((link.sequence, "it is another one than when the chain was signed or noted here"))
        if link.content is None:
            self._empty(link.sequence)
        if self._signed is not None:
            self._count(link, self._signed)
        return found

    def end(self) -> list[tuple[int, str]]:
        """What is wrong with the chain as a whole."""
        late = [point for point in self._points if point > self.sequence]
        found = [(point, f"the chain ends at {self.sequence}: what came after was removed") for point in late]
        if self._needs_signature and not self._has_signature:
            found.append((0, "nothing of this chain is signed with a key that was given"))
        return found if self._forgets else found + self._untold()

    def _count(self, link: Link, signed: set[tuple[int, str]]) -> None:
        """Of a chain whose all was deleted nothing is left to sign but the record that says so."""
        self.unsigned += 1
        if link.content is not None and link.kind != RecordsPruned.kind:
            self._needs_signature = True
        if (link.sequence, link.hash) in signed:
            self._has_signature, self.unsigned = True, 0

    def _untold(self) -> list[tuple[int, str]]:
        """What is gone without a record of why."""
        found = []
        if self._first is not None and not self._begins_where_retention_says(self._first):
            found.append((1, f"the first {self._first.sequence - 1} records are missing, and no retention took them"))
        if self.retention is not None:
            base = self.retention["base_hash"]
            if any(known != base for known in self._points.get(self.retention["base_sequence"], ())):
                found.append((self.retention["base_sequence"], "the chain begins after another record than was noted"))
        taken = [] if self.retention is None else json.loads(self.retention.get("ranges", "[]"))
        for first, last in self._emptied:
            if not any(low <= first and last <= high for low, high in taken):
                found.append((first, f"contents are missing up to {last}, and no retention took them"))
        return found

    def _begins_where_retention_says(self, first: Link) -> bool:
        if self.retention is None or self.retention["base_sequence"] != first.sequence - 1:
            return False
        base: str = self.retention["base_hash"]
        return link_hash(self.tenant_id, first.sequence, base, first.content_sha256) == first.hash

    def _empty(self, sequence: int) -> None:
        if self._emptied and self._emptied[-1][1] == sequence - 1:
            self._emptied[-1][1] = sequence
        else:
            self._emptied.append([sequence, sequence])
