"""Journals by URL, as settings and commands name them."""

from gateway.errors import InvalidRequest
from gateway.journal.base import Journal
from gateway.journal.memory import MemoryJournal

MEMORY = "memory"


def open_journal(url: str, *, create: bool = True) -> Journal:
    """The journal at `memory`, `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`.

    Without `create` an SQLite file must be there. Raises InvalidRequest, MissingExtra.
    """
    if url == MEMORY:
        return MemoryJournal()
    if ":" not in url:
        raise InvalidRequest(f"a journal is named by a URL such as sqlite:///journal.db, not by {url!r}")
    from gateway.journal.sql import SqlJournal  # noqa: PLC0415 - most have no use for it

    return SqlJournal(url, create=create)
