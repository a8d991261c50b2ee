"""Ed25519 signatures over chains: what lies before one cannot be rewritten by anybody without the key, unless the
signature is taken away too.

Needs the extra `ledger`.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import rfc8785

from gateway.errors import InvalidRequest, MissingExtra
from gateway.journal.ledger import Head
from gateway.journal.rows import Rows

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PURPOSE = "toolexec ledger 1"
"""Part of what is signed, so that no signature made for something else can pass for one of these."""

_SIGNATURE = """INSERT INTO journal_signatures (tenant_id, sequence, hash, signed_at, key_id, signature)
    VALUES (:tenant_id, :sequence, :hash, :signed_at, :key_id, :signature) ON CONFLICT DO NOTHING"""


class Signature(NamedTuple):
    """A chain, signed at one of its records. `key_id` is the SHA-256 of the raw public key, `signature` is hex."""

    tenant_id: str
    sequence: int
    hash: str
    signed_at: str
    key_id: str
    signature: str

    @property
    def message(self) -> bytes:
        """What is signed: RFC 8785 JSON."""
        return rfc8785.dumps(
            {
                "hash": self.hash,
                "purpose": PURPOSE,
                "sequence": self.sequence,
                "signed_at": self.signed_at,
                "tenant": self.tenant_id,
            }
        )


class Signer:
    """Signs the end of each chain that this host wrote to: after `every` records, and `seconds` after the first of
    them at the latest; also when the journal is closed. `clock` gives monotonic seconds."""

    def __init__(
        self, key: "Ed25519PrivateKey", every: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = key
        self._key_id = key_id(key.public_key())
        self._every = every
        self.seconds = seconds
        self._clock = clock
        self._waiting: dict[str, tuple[Head, int, float]] = {}
        self._before = self._waiting

    def begin(self) -> None:
        """A transaction begins, which `undo` may take back."""
        self._before = dict(self._waiting)

    def undo(self) -> None:
        self._waiting = self._before

    def written(self, rows: Rows, heads: Mapping[str, Head], added: Mapping[str, int]) -> None:
        """Chains have grown to `heads` in this transaction, by so many records."""
        for tenant_id, head in heads.items():
            new = (head, head.sequence - added[tenant_id], self._clock())
            _, signed, since = self._waiting.get(tenant_id, new)
            self._waiting[tenant_id] = (head, signed, since)
        self.sign(rows)

    def sign(self, rows: Rows, *, all_of_them: bool = False) -> None:
        """Sign what is due."""
        now = self._clock()
        due = {
            tenant_id: head
            for tenant_id, (head, signed, since) in self._waiting.items()
            if all_of_them or head.sequence - signed >= self._every or now - since >= self.seconds
        }
        rows.many(_SIGNATURE, [self._signed(tenant_id, head)._asdict() for tenant_id, head in due.items()])
        for tenant_id in due:
            del self._waiting[tenant_id]

    @property
    def is_due(self) -> bool:
        return any(self._clock() - since >= self.seconds for _, _, since in self._waiting.values())

    @property
    def has_unsigned(self) -> bool:
        return bool(self._waiting)

    def _signed(self, tenant_id: str, head: Head) -> Signature:
        unsigned = Signature(tenant_id, head.sequence, head.hash, datetime.now(UTC).isoformat(), self._key_id, "")
        return unsigned._replace(signature=self._key.sign(unsigned.message).hex())


class Keys:
    """Public keys whose signatures count."""

    def __init__(self, keys: "Iterable[Ed25519PublicKey]") -> None:
        self._keys = {key_id(key): key for key in keys}

    @classmethod
    def read(cls, paths: Sequence[str | Path]) -> "Keys":
        """From PEM files. Raises InvalidRequest, MissingExtra."""
        return cls(read_public_key(path) for path in paths)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def flaw(self, signature: Signature) -> str:
        """Why it does not count; empty when it does."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra's

        key = self._keys.get(signature.key_id)
        if key is None:
            return "it is signed with a key that is not among those given"
        try:
            key.verify(bytes.fromhex(signature.signature), signature.message)
        except (InvalidSignature, ValueError):
            return "its signature is false"
        return ""


def key_id(key: "Ed25519PublicKey") -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def read_private_key(path: str | Path) -> "Ed25519PrivateKey":
    """From an unencrypted PEM file that only its owner can read. Raises InvalidRequest, MissingExtra."""
    serialization, ed25519 = _library()
    file = Path(path)
    try:
        if file.stat().st_mode & 0o077:
            raise InvalidRequest(f"the signing key {file} can be read by others; run: chmod 600 {file}")
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequest(f"the signing key {file} cannot be read: {error}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InvalidRequest(f"the signing key {file} is no Ed25519 key; openssl genpkey -algorithm ed25519 makes one")
    return cast("Ed25519PrivateKey", key)


def read_public_key(path: str | Path) -> "Ed25519PublicKey":
    """From a PEM file. Raises InvalidRequest, MissingExtra."""
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"the public key {path} cannot be read: {error}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InvalidRequest(f"the public key {path} is no Ed25519 key")
    return cast("Ed25519PublicKey", key)


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra's
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtra("Signatures of a journal", "ledger") from error
    return serialization, ed25519
