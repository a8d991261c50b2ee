"""`verify` over a database: in many short transactions, so that it holds up nobody, whatever the size."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import anyio.to_thread

from gateway.errors import JournalCorrupt
from gateway.journal import comparing, reading
from gateway.journal.base import Checkpoint, Verification
from gateway.journal.ledger import Verifier
from gateway.journal.signing import Keys, Signature
from gateway.journal.store import Store


async def verified(store: Store, checkpoints: Sequence[Checkpoint], keys: Keys | None) -> Verification:
    """Raises JournalUnavailable. Storage that is damaged is a finding."""
    verifier = Verifier(checkpoints)
    count = 0
    try:
        signatures = await store.read(reading.signatures)
        count = len(signatures)
        _check_signatures(verifier, signatures, keys)
        await _check_links(store, verifier)
        await _each(store, partial(comparing.check_index, verifier=verifier))
        await _each(store, partial(comparing.check_blobs, verifier=verifier, digest_of=_digest))
    except JournalCorrupt as error:
        verifier.stop(f"the storage is damaged after here: {error}")
    return verifier.end(count)


async def _check_links(store: Store, verifier: Verifier) -> None:
    after = ("", 0)
    while filed := await store.read(partial(reading.filed, after=after)):
        links, tools = zip(*filed, strict=True)
        told = await anyio.to_thread.run_sync(verifier.feed, links, tools)  # a thousand take some 10 ms
        if told.blobs or told.begun:
            await store.read(partial(comparing.check_told, verifier=verifier, told=told))
        after = (links[-1].tenant_id, links[-1].sequence)


async def _each(store: Store, check: Callable[..., str | None]) -> None:
    """All rows of a table, after one key after the other."""
    after: str | None = ""
    while after is not None:
        after = await store.read(partial(check, after=after))


def _check_signatures(verifier: Verifier, signatures: Sequence[Signature], keys: Keys | None) -> None:
    signed = []
    for signature in signatures:
        point = Checkpoint(signature.tenant_id, signature.sequence, signature.hash)
        verifier.expect(point)
        if keys is not None and (flaw := keys.flaw(signature)):
            verifier.find(signature.tenant_id, signature.sequence, f"signed here, but {flaw}")
        else:
            signed.append(point)
    if keys is not None:
        verifier.require(signed)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
