"""Full-text search over the tools of a registry."""

import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from gateway.base import ToolSummary
from gateway.tools.model import Tool
from gateway.tools.registry import RegisteredTool, ToolRegistry
from gateway.tools.words import summary, words

MAX_QUERY = 400
"""A query is cut to this many characters."""

_CREATE = """
CREATE VIRTUAL TABLE tools USING fts5(
    name, namespace, tags, description, id UNINDEXED, tokenize = 'porter unicode61 remove_diacritics 2')
"""
# Weights of name, namespace, tags and description. bm25() is negative, and lower is better.
_FIND = """
SELECT id, -bm25(tools, 3.0, 2.0, 2.0, 1.0) AS score FROM tools WHERE tools MATCH ? ORDER BY score DESC, id
"""


class ToolSearch:
    """BM25 ranking over names, namespaces, tags and descriptions. Follows the registry: rebuilt when it has changed."""

    def __init__(self, registry: ToolRegistry) -> None:
        self._registry = registry
        self._indexed_version: int | None = None
        # One thread at a time: the event loop's, whichever that is.
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(_CREATE)
        # Whoever forgets `close` gets no warning for it: there is nothing to lose in a memory database.
        weakref.finalize(self, self._database.close)

    def search(
        self, query: str, limit: int = 10, permits: Callable[[str], bool] = lambda _: True
    ) -> tuple[ToolSummary, ...]:
        """At most `limit` tools whose id `permits` accepts, best first; ties by id.

        A tool fits when it has any word of the query, or a word that begins with the last one. Without a word in the
        query all tools fit, in the order of their ids and with score 1. Scores are above 0; higher fits better.
        """
        wanted = words(query[:MAX_QUERY])
        hits = self._ranked(wanted) if wanted else ((tool.id, 1.0) for tool in self._registry.tools())
        permitted = ((tool_id, score) for tool_id, score in hits if permits(tool_id))
        return tuple(_hit(self._registry.resolve(tool_id), score) for tool_id, score in islice(permitted, limit))

    def close(self) -> None:
        """Release the index. Idempotent."""
        self._database.close()

    def _ranked(self, wanted: list[str]) -> Iterator[tuple[str, float]]:
        self._refresh()
        # Quoted, a word is only ever a word: no column filter, no NEAR, no operator.
        match = " OR ".join(f'"{word}"' for word in wanted) + "*"
        return iter(self._database.execute(_FIND, (match,)).fetchall())

    def _refresh(self) -> None:
        if self._indexed_version == self._registry.version:
            return
        with self._database:
            self._database.execute("DELETE FROM tools")
            self._database.executemany("INSERT INTO tools VALUES (?, ?, ?, ?, ?)", _rows(self._registry.tools()))
        self._indexed_version = self._registry.version


def _rows(tools: Iterable[RegisteredTool]) -> Iterator[tuple[str, str, str, str, str]]:
    for registered in tools:
        tool = registered.tool
        yield (*_texts(tool), registered.id)


def _texts(tool: Tool) -> tuple[str, str, str, str]:
    return (
        _indexed(tool.id.name),
        _indexed(tool.id.namespace),
        " ".join(_indexed(tag) for tag in tool.tags),
        _indexed(tool.description),
    )


def _indexed(text: str) -> str:
    return " ".join(words(text))


def _hit(registered: RegisteredTool, score: float) -> ToolSummary:
    tool = registered.tool
    return ToolSummary(registered.id, tool.id.name, tool.id.namespace, summary(tool.description), score)
