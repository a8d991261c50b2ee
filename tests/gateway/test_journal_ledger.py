"""What the ledger tells: every change, removal and move, and where; and what signatures add."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_type_hints

import anyio
import pytest
import rfc8785
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, JournalCorrupt
from gateway.journal.base import (
    RECORDS,
    Blob,
    CallFinished,
    CallStatus,
    ExecutionFinished,
    Mode,
    Retention,
    arguments_sha256,
)
from gateway.journal.codec import MalformedRecord, content_of, record_of, references
from gateway.journal.export import ledger_lines
from gateway.journal.signing import Keys, Signature, read_private_key
from gateway.journal.sql import SqlJournal
from tests.gateway.journals import NOW, answer, at, call, filled, raw, started, whole

pytestmark = pytest.mark.anyio

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


# Content


@settings(deadline=None)
@given(
    value=JSON,
    error=st.none() | st.dictionaries(st.text(max_size=5), JSON, max_size=2),
    seconds=st.floats(0, 1e300, allow_nan=False),
    data=st.binary(max_size=40) | st.binary(min_size=20_000, max_size=20_001),
)
def test_any_record_is_canonical_and_comes_back(value: Any, error: Any, seconds: float, data: bytes) -> None:
    record = CallFinished(
        execution_id="e",
        tenant_id="\U0001f600\ue000",
        at=NOW,
        index=1,
        status=CallStatus.FAILED,
        result=Blob.of_json(value),
        chunks=(Blob.of(data),),
        error=error,
        attempts=1,
        duration_seconds=seconds,
        usage={"v": value},
    )
    content = content_of(record)
    assert rfc8785.dumps(json.loads(content.data)) == content.data
    again = record_of(content.data)
    assert again == record
    assert isinstance(again, CallFinished)
    assert again.result is not None
    assert json.dumps(again.result.as_json()) == json.dumps(value)  # order of keys, 1.0 and 1
    assert json.dumps(again.usage["v"]) == json.dumps(value)
    large = [hashlib.sha256(data).hexdigest()] if len(data) > 16384 else []
    assert references(json.loads(content.data)) == large == list(content.blobs)


@pytest.mark.parametrize("text", ['"\\/', "\x00\x1f\x7f\b\f\n\r\t", "\u2028é\U0001f600\ue000"])
@pytest.mark.parametrize("kind", RECORDS)
def test_every_kind_is_canonical_whatever_its_texts(kind: str, text: str) -> None:
    samples: dict[Any, Any] = {
        str: text,
        int: 2**53 - 1,
        bool: True,
        float: 1e-7,
        datetime: NOW.astimezone(timezone(timedelta(hours=2))),
        CallStatus: CallStatus.FAILED,
        Mode: Mode.REPLAY,
        tuple[str, ...]: (text, "b", "a"),
        Any: [{text: text, "a": 1.0}],
        Mapping[str, Any]: {text: 1.0, "a": text},
        Blob: Blob.of_text(text),
        tuple[Blob, ...]: (Blob.of(b"\xff" + text.encode()), Blob.of_text(text)),
        Mapping[str, Blob]: {text: Blob.of(b"\xff"), "a": Blob.of_text(text)},
    }
    hints = get_type_hints(RECORDS[kind])
    values = {
        field.name: next(sample for hint, sample in samples.items() if hints[field.name] in (hint, hint | None))
        for field in dataclasses.fields(RECORDS[kind])
    }
    record = RECORDS[kind](**values)
    content = content_of(record).data
    assert rfc8785.dumps(json.loads(content)) == content
    assert set(json.loads(content)) == {"kind", *values}
    assert record_of(content) == record


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"kind":"no"}', b'{"kind":"call_started","index":"x"}', b"\xff"])
def test_what_is_no_record_is_said_so(data: bytes) -> None:
    with pytest.raises(MalformedRecord):
        record_of(data)


def test_arguments_hash_the_same_in_any_order() -> None:
    assert arguments_sha256({"a": 1, "b": {"c": 2, "d": 3}}) == arguments_sha256({"b": {"d": 3, "c": 2}, "a": 1})
    assert arguments_sha256({"a": 1}) != arguments_sha256({"a": 1.0})


# Changes

UPDATE = "UPDATE journal_records SET"
OF = "WHERE tenant_id = 'acme' AND sequence ="
CHANGES = {
    "content": (f"{UPDATE} content = replace(content, '\"index\":0', '\"index\":7') {OF} 2", "acme", 2, "was changed"),
    "one bit of it": (f"{UPDATE} content = CAST(replace(content, '05', '06') AS BLOB) {OF} 3", "acme", 3, "changed"),
    "its digest": (f"{UPDATE} content_sha256 = '{'0' * 64}' {OF} 3", "acme", 3, "does not follow"),
    "its hash": (f"{UPDATE} hash = '{'0' * 64}' {OF} 3", "acme", 3, "does not follow"),
    "the kind": (f"{UPDATE} kind = 'call_finished' {OF} 2", "acme", 2, "filed under another"),
    "the execution": (f"{UPDATE} execution_id = 'e3' {OF} 2", "acme", 2, "filed under another"),
    "removal": (f"DELETE FROM journal_records {OF} 2", "acme", 2, "1 records are missing"),
    "removal of the first": (f"DELETE FROM journal_records {OF} 1", "acme", 1, "first 1 records are missing"),
    "an emptied content": (f"{UPDATE} content = NULL {OF} 2", "acme", 2, "contents are missing"),
    "a record moved to another chain": (
        f"{UPDATE} tenant_id = 'other', sequence = 9 {OF} 8",
        "other",
        9,
        "does not follow",
    ),
    "an addition": (
        (
            "INSERT INTO journal_records SELECT tenant_id, 9, execution_id, kind, tool_id, content, content_sha256, "
            f"hash FROM journal_records {OF} 8"
        ),
        "acme",
        9,
        "does not follow",
    ),
    "a blob": ("UPDATE journal_blobs SET data = x'00'", "", 0, "was changed"),
    "a blob's removal": ("DELETE FROM journal_blobs", "acme", 4, "is missing"),
    "the outcome in the list": ("UPDATE journal_executions SET outcome = 'raised'", "acme", 0, "another outcome"),
    "the tenant in the list": ("UPDATE journal_executions SET tenant_id = 'x'", "x", 0, "another tenant_id"),
    "an execution that never was": (
        (
            "INSERT INTO journal_executions SELECT 'new', tenant_id, owner, started_at, language, profile, backend, "
            "mode, parent, outcome, ended_at FROM journal_executions LIMIT 1"
        ),
        "other",
        0,
        "another start",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_found_where_it_was_made(tmp_path: Path, change: str) -> None:
    sql, tenant_id, sequence, what = CHANGES[change]
    path = tmp_path / "journal.db"
    journal = at(path)
    await filled(journal, 4)
    assert (await journal.verify()).ok
    await journal.aclose()
    with raw(path) as connection:
        assert connection.execute(sql).rowcount > 0
    found = await journal_findings(path)
    assert any((one.tenant_id, one.sequence) == (tenant_id, sequence) and what in one.what for one in found), found


async def journal_findings(path: Path) -> Any:
    journal = at(path)
    found = (await journal.verify()).findings
    await journal.aclose()
    return found


async def test_swapped_records_are_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = at(path)
    await filled(journal, 4)
    await journal.aclose()
    with raw(path) as connection:
        for before, after in ((2, 100), (3, 2), (100, 3)):
            connection.execute(f"{UPDATE} sequence = {after} {OF} {before}")
    assert {(one.tenant_id, one.sequence) for one in await journal_findings(path)} >= {("acme", 2), ("acme", 3)}


@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 10**6), flip=st.integers(1, 255), column=st.sampled_from(["content", "hash"]))
def test_any_flipped_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int, column: str
) -> None:
    async def main() -> None:
        path = tmp_path_factory.mktemp("flip") / "journal.db"
        journal = at(path)
        await filled(journal, 2)
        await journal.aclose()
        with raw(path) as connection:
            key = "ORDER BY tenant_id, sequence LIMIT 1 OFFSET"
            row = f"FROM journal_records {key} {position % 8}"
            tenant_id, sequence, value = connection.execute(f"SELECT tenant_id, sequence, {column} {row}").fetchone()
            data = bytearray(value if isinstance(value, bytes) else value.encode())
            data[position % len(data)] ^= flip
            changed = bytes(data) if column == "content" else data.decode("latin-1")
            connection.execute(
                f"{UPDATE} {column} = ? WHERE tenant_id = ? AND sequence = ?", (changed, tenant_id, sequence)
            )
        found = await journal_findings(path)
        assert any((one.tenant_id, one.sequence) == (tenant_id, sequence) for one in found)

    anyio.run(main)


async def test_a_chain_that_was_forged_from_the_start_needs_a_signature_to_be_told(tmp_path: Path) -> None:
    path, key = tmp_path / "journal.db", Ed25519PrivateKey.generate()
    journal = SqlJournal(f"sqlite:///{path}", signing_key=key, sign_every=3)
    await filled(journal, 2)
    await journal.aclose()
    forged = at(tmp_path / "forged.db")
    await forged.append(started("e1"), call("e1", 7), *whole("e1"))
    await forged.aclose()
    with raw(path) as connection:
        connection.execute("ATTACH ? AS f", (str(tmp_path / "forged.db"),))
        connection.execute("DELETE FROM journal_records WHERE tenant_id = 'acme'")
        connection.execute("INSERT INTO journal_records SELECT * FROM f.journal_records")
    found = await journal_findings(path)
    assert [(one.tenant_id, one.what[:21]) for one in found if one.sequence] == [("acme", "it is another one tha")]


# Signatures


async def test_signatures_hold_against_the_public_key(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    journal = SqlJournal(f"sqlite:///{tmp_path}/journal.db", signing_key=key, sign_every=2)
    await filled(journal, 3)
    found = await journal.verify(keys=Keys([key.public_key()]))
    assert found.ok
    assert found.signatures >= 3
    other = Keys([Ed25519PrivateKey.generate().public_key()])
    found = await journal.verify(keys=other)
    by_record = [one.what for one in found.findings if one.sequence]
    assert len(by_record) == found.signatures
    assert all("not among those given" in what for what in by_record)
    assert {one.tenant_id for one in found.findings if not one.sequence} == {"acme", "other"}
    await journal.aclose()


async def test_the_rest_is_signed_at_the_end(tmp_path: Path) -> None:
    path, key = tmp_path / "journal.db", Ed25519PrivateKey.generate()
    journal = SqlJournal(f"sqlite:///{path}", signing_key=key)
    await filled(journal, 2)
    assert (await journal.verify()).signatures == 0
    await journal.aclose()
    with raw(path) as connection:
        signed = connection.execute("SELECT tenant_id, sequence FROM journal_signatures ORDER BY 1").fetchall()
    assert signed == [("acme", 4), ("other", 4)]


async def test_what_waits_is_signed_in_time(tmp_path: Path) -> None:
    journal = SqlJournal(
        f"sqlite:///{tmp_path}/journal.db", signing_key=Ed25519PrivateKey.generate(), sign_seconds=0.05
    )
    await journal.append(started("e"))
    with anyio.fail_after(5):
        while not (await journal.verify()).signatures:  # noqa: ASYNC110 - another thread signs
            await anyio.sleep(0.02)
    await journal.aclose()


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE journal_signatures SET signature = '00' || substr(signature, 3)", "its signature is false"),
        ("UPDATE journal_signatures SET signature = 'x'", "its signature is false"),
        ("UPDATE journal_signatures SET signed_at = 'x'", "its signature is false"),
        ("UPDATE journal_signatures SET sequence = sequence + 1", "removed"),
        ("DELETE FROM journal_records WHERE sequence = 4", "ends at 3"),
    ],
)
async def test_a_false_signature_is_found(tmp_path: Path, sql: str, what: str) -> None:
    path, key = tmp_path / "journal.db", Ed25519PrivateKey.generate()
    journal = SqlJournal(f"sqlite:///{path}", signing_key=key)
    await filled(journal, 2)
    await journal.aclose()
    with raw(path) as connection:
        connection.execute(sql)
    journal = at(path)
    found = await journal.verify(keys=Keys([key.public_key()]))
    assert any(what in one.what for one in found.findings), found
    await journal.aclose()


async def test_signatures_of_what_was_deleted_go_with_it(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    journal = SqlJournal(f"sqlite:///{tmp_path}/journal.db", signing_key=key, sign_every=1)
    await filled(journal, 3)
    await journal.prune(Retention(older_than=NOW - NOW))
    await journal.append(*whole("new"))
    found = await journal.verify(keys=Keys([key.public_key()]))
    assert found.findings == ()
    assert found.signatures == 1
    await journal.aclose()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(Ed25519PrivateKey.generate().private_bytes(*encoding))
    file.chmod(0o644)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        read_private_key(file)
    file.chmod(0o600)
    read_private_key(file)
    file.write_text("x")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_private_key(file)


def test_a_signature_is_for_one_place_only() -> None:
    one = Signature("acme", 1, "0" * 64, "now", "k", "")
    assert len({one.message, one._replace(sequence=2).message, one._replace(tenant_id="x").message}) == 3


# Export


async def test_exported_lines_can_be_verified_by_anybody(tmp_path: Path) -> None:
    journal = at(tmp_path / "journal.db")
    await filled(journal, 4)
    hashes = {"acme": "0" * 64, "other": "0" * 64}
    blobs: dict[str, str] = {}
    async for line in ledger_lines(journal, blobs=True):
        if "base64" in line:
            blobs[line["sha256"]] = line["base64"]
            continue
        digest = hashlib.sha256(rfc8785.dumps(line["content"])).hexdigest()
        link = {"content": digest, "previous": line["previous"]}
        link |= {"sequence": line["sequence"], "tenant": line["tenant"]}
        assert line["previous"] == hashes[line["tenant"]]
        assert line["content_sha256"] == digest
        assert line["hash"] == hashlib.sha256(rfc8785.dumps(link)).hexdigest()
        hashes[line["tenant"]] = line["hash"]
    assert hashes == {head.tenant_id: head.hash for head in (await journal.verify()).heads}
    assert len(blobs) == 1
    of_one = [line async for line in ledger_lines(journal, tenant_id="acme", execution_id="e1")]
    assert [line["kind"] for line in of_one] == [record.kind for record in whole("e1")]
    assert [line["sequence"] for line in of_one] == [1, 2, 3, 4]
    await journal.aclose()


async def test_a_record_that_was_changed_does_not_pass_for_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = at(path)
    await journal.append(started("e"), answer("e", 0))
    await journal.aclose()
    with raw(path) as connection:
        connection.execute("UPDATE journal_records SET content = x'7b' WHERE sequence = 2")
    journal = at(path)
    with pytest.raises(JournalCorrupt, match="journal verify"):
        await journal.records("e")
    await journal.aclose()


async def test_data_that_was_changed_does_not_pass_for_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = at(path)
    await journal.append(*whole("e"))
    with raw(path) as connection:
        connection.execute("UPDATE journal_blobs SET data = x'00'")
    *_, last = await journal.records("e")
    assert isinstance(last, ExecutionFinished)
    with pytest.raises(JournalCorrupt, match="was changed"):
        await journal.read(last.stdout)
    await journal.aclose()
