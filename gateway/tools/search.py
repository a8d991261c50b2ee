"""Search over the tools of a registry: by words, and with an embedder by meaning too."""

import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from gateway.base import ToolSummary
from gateway.errors import InvalidInput, InvalidRequest
from gateway.tools.model import Tool, normal_tag
from gateway.tools.paging import Page, cursor_after, place_of
from gateway.tools.registry import Permits, RegisteredTool, ToolRegistry
from gateway.tools.words import summary, words

if TYPE_CHECKING:
    from gateway.tools.semantic import Embedder, Meaning

MAX_QUERY = 400
"""A query is cut to this many characters."""

MAX_WORDS = 16
"""Different words of a query that count; each takes up to a millisecond in a catalogue of 5,000 tools."""

_MAX_TITLE, _MAX_DESCRIPTION = 300, 4000
"""Characters of a title and of a description that can be found."""

Hit: TypeAlias = tuple[RegisteredTool, float]

_LIST = "search"
# They fit most tools and take most of the time; a query of nothing else keeps them.
_COMMON = frozenset(
    [
        *("a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "for", "from", "how", "i", "in", "is", "it"),
        *("me", "my", "of", "on", "or", "that", "the", "this", "to", "with"),
    ]
)

# Without content: the texts of the tools are held by the registry, and reading rows back takes most of a query's time.
_CREATE = """
CREATE VIRTUAL TABLE tools USING fts5(
    name, namespace, tags, title, description, content = '', tokenize = 'porter unicode61 remove_diacritics 2')
"""
_ADD = "INSERT INTO tools(rowid, name, namespace, tags, title, description) VALUES (?, ?, ?, ?, ?, ?)"
_DROP = "INSERT INTO tools(tools, rowid, name, namespace, tags, title, description) VALUES ('delete', ?, ?, ?, ?, ?, ?)"
# Weights of the columns in their order. bm25() is negative, and lower is better.
_FIND = (
    "SELECT -bm25(tools, 3.0, 2.0, 2.0, 2.0, 1.0) AS score, rowid FROM tools WHERE tools MATCH ? ORDER BY score DESC"
)


def _anything(_: RegisteredTool) -> bool:
    return True


class ToolSearch:
    """Ranks tools by BM25 over names, namespaces, tags, titles and descriptions; follows the changes of the registry.

    With an `embedder` the score is `alpha` x words + (1 - `alpha`) x meaning: words is BM25 divided by the best one of
    the query, meaning the cosine of query and tool, both 0 to 1. At 1 only words count, at 0 only meaning. Raises
    InvalidRequest for an `alpha` outside 0 to 1.
    """

    def __init__(self, registry: ToolRegistry, *, embedder: "Embedder | None" = None, alpha: float = 0.5) -> None:
        if not 0 <= alpha <= 1:
            raise InvalidRequest(f"alpha must be 0 (meaning only) to 1 (words only), not {alpha}")
        self.registry = registry
        self._words = _WordIndex(registry)
        self._meaning = None if embedder is None or alpha == 1 else _meaning(embedder)
        self._alpha = alpha

    async def find(
        self,
        query: str,
        limit: int = 10,
        *,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        permits: Permits = _anything,
    ) -> tuple[ToolSummary, ...]:
        """The first page of `page`."""
        return (await self.page(query, limit, namespace=namespace, tags=tags, permits=permits)).items

    async def page(
        self,
        query: str,
        limit: int = 10,
        cursor: str | None = None,
        *,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        permits: Permits = _anything,
    ) -> Page[ToolSummary]:
        """At most `limit` tools, best first, ties by id; those after the page that gave `cursor`, if one is given.

        Only those of `namespace` ("" for tools without, None for all), with all of `tags` and that `permits` accepts. A
        tool fits when it has any word of the query, or a word that begins with the last one; by meaning all fit that
        point in the query's direction at all. Without a word in the query all tools fit, by id and with score 1. Scores
        are above 0; higher fits better. Raises InvalidInput for a limit below 1, InvalidCursor.
        """
        if limit < 1:
            raise InvalidInput(f"limit must be at least 1, not {limit}")
        wanted = frozenset(map(normal_tag, tags))
        filters = [query, namespace, sorted(wanted)]
        place = None if cursor is None else place_of(cursor, _LIST, filters)
        ranked = _after(await self._ranked(query[:MAX_QUERY]), place)
        fitting = (hit for hit in ranked if hit[1].fits(namespace, wanted) and permits(hit[1]))
        found = tuple(islice(fitting, limit + 1))
        shown = tuple(_shown(tool, score) for _, tool, score in found[:limit])
        if len(found) <= limit:
            return Page(shown, None)
        index, last, _ = found[limit - 1]
        return Page(shown, cursor_after([last.id, index], _LIST, filters))

    def close(self) -> None:
        """Release the index. Idempotent."""
        self._words.close()

    async def _ranked(self, query: str) -> Iterable[Hit]:
        wanted = _wanted(query)
        if not wanted:
            return ((tool, 1.0) for tool in self.registry.tools())
        if self._meaning is None:
            return self._words.ranked(wanted)
        near = await self._meaning.near(query, self.registry.tools())
        return near.fused(self._words.ranked(wanted) if self._alpha else (), self._alpha)


class _WordIndex:
    """An FTS5 index of a registry, brought up to date tool by tool when it is asked."""

    def __init__(self, registry: ToolRegistry) -> None:
        self._registry = registry
        self._version: int | None = None
        self._indexed: dict[str, tuple[int, Tool]] = {}
        self._ids: dict[int, str] = {}
        self._next_row = 0
        # One thread at a time: the event loop's, whichever that is.
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(_CREATE)
        # Whoever forgets `close` gets no warning for it: there is nothing to lose in a memory database.
        weakref.finalize(self, self._database.close)

    def ranked(self, wanted: list[str]) -> Iterator[Hit]:
        """Best first, ties by id; to be used up before the registry changes again."""
        self._refresh()
        # Quoted, a word is only ever a word: no column filter, no NEAR, no operator.
        match = " OR ".join(f'"{word}"' for word in wanted) + "*"
        with closing(self._database.execute(_FIND, (match,))) as rows:
            for score, alike in groupby(rows, itemgetter(0)):
                for tool_id in sorted(self._ids[row] for _, row in alike):
                    yield self._registry.resolve(tool_id), score

    def close(self) -> None:
        self._database.close()

    def _refresh(self) -> None:
        if self._version == self._registry.version:
            return
        tools = {registered.id: registered.tool for registered in self._registry.tools()}
        with self._database:
            gone = [tool_id for tool_id, (_, tool) in self._indexed.items() if tools.get(tool_id) is not tool]
            self._database.executemany(_DROP, map(self._drop, gone))
            new = [(tool_id, tool) for tool_id, tool in tools.items() if tool_id not in self._indexed]
            self._database.executemany(_ADD, (self._add(tool_id, tool) for tool_id, tool in new))
        self._version = self._registry.version

    def _add(self, tool_id: str, tool: Tool) -> tuple[Any, ...]:
        self._next_row += 1
        self._indexed[tool_id] = (self._next_row, tool)
        self._ids[self._next_row] = tool_id
        return self._next_row, *_texts(tool)

    def _drop(self, tool_id: str) -> tuple[Any, ...]:
        # The index keeps no text of its own: to forget a row it must be told what was in it.
        row, tool = self._indexed.pop(tool_id)
        del self._ids[row]
        return row, *_texts(tool)


def _meaning(embedder: "Embedder") -> "Meaning":
    from gateway.tools.semantic import Meaning  # noqa: PLC0415 - needs numpy, which is an extra

    return Meaning(embedder)


def _wanted(query: str) -> list[str]:
    found = dict.fromkeys(words(query))
    return ([word for word in found if word not in _COMMON] or list(found))[:MAX_WORDS]


def _after(ranked: Iterable[Hit], place: Any) -> Iterable[tuple[int, RegisteredTool, float]]:
    """The hits with their index, from the one after the id of `place`; or from its index, when it is gone."""
    indexed = ((index, tool, score) for index, (tool, score) in enumerate(ranked))
    if place is None:
        return indexed
    tool_id, gone = place
    hits = list(indexed)
    start = next((index + 1 for index, tool, _ in hits if tool.id == tool_id), gone)
    return hits[start:]


def _texts(tool: Tool) -> tuple[str, ...]:
    return (
        _indexed(tool.id.name),
        _indexed(tool.id.namespace),
        " ".join(_indexed(tag) for tag in tool.tags),
        _indexed(tool.title[:_MAX_TITLE]),
        _indexed(tool.description[:_MAX_DESCRIPTION]),
    )


def _indexed(text: str) -> str:
    return " ".join(words(text))


def _shown(registered: RegisteredTool, score: float) -> ToolSummary:
    tool = registered.tool
    return ToolSummary(registered.id, tool.id.name, tool.id.namespace, summary(tool.description), score)
