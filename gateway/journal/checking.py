"""`verify` over a database: in many short transactions, so that it holds up nobody, whatever the size."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

from gateway.errors import JournalCorrupt
from gateway.journal import reading
from gateway.journal.base import Checkpoint, Verification
from gateway.journal.jobs import Store
from gateway.journal.ledger import Verifier
from gateway.journal.rows import Rows
from gateway.journal.signing import Keys, Signature


async def verified(store: Store, checkpoints: Sequence[Checkpoint], keys: Keys | None) -> Verification:
    """Raises JournalUnavailable. Storage that is damaged is a finding."""
    verifier = Verifier(checkpoints)
    count = 0
    try:
        signatures = await store.read(reading.signatures)
        count = len(signatures)
        _check_signatures(verifier, signatures, keys)
        place: tuple[str, int] | None = ("", 0)
        while place is not None:
            place = await store.read(partial(_links, verifier=verifier, after=place))
        await _each(store, partial(reading.check_index, verifier=verifier))
        await _each(store, partial(reading.check_blobs, verifier=verifier, digest_of=_digest))
    except JournalCorrupt as error:
        verifier.stop(f"the storage is damaged after here: {error}")
    return verifier.end(count)


def _links(rows: Rows, verifier: Verifier, after: tuple[str, int]) -> tuple[str, int] | None:
    links = reading.links(rows, after)
    told = verifier.feed(links)
    reading.check_references(rows, verifier, told.blobs)
    return (links[-1].tenant_id, links[-1].sequence) if links else None


async def _each(store: Store, check: Callable[..., str | None]) -> None:
    """All rows of a table, after one key after the other."""
    after: str | None = ""
    while after is not None:
        after = await store.read(partial(check, after=after))


def _check_signatures(verifier: Verifier, signatures: Sequence[Signature], keys: Keys | None) -> None:
    for signature in signatures:
        verifier.expect(Checkpoint(signature.tenant_id, signature.sequence, signature.hash))
        if keys is not None and (flaw := keys.flaw(signature)):
            verifier.find(signature.tenant_id, signature.sequence, f"signed here, but {flaw}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
