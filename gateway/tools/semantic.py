"""Tools by meaning: vectors of their texts beside the vector of a query. Needs the extra `semantic`."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import anyio
import anyio.to_thread

from gateway.errors import InvalidRequest, MissingExtra, ToolUnavailable
from gateway.tools.model import Tool
from gateway.tools.registry import RegisteredTool
from gateway.tools.words import words

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as exc:
    raise MissingExtra("searches by meaning", "semantic") from exc

BATCH = 256
"""Texts that an embedder is given at once. Between batches a search can be cancelled."""

_MAX_TEXT = 2000
"""Characters of a tool's text that are embedded."""

Vectors: TypeAlias = "NDArray[np.float32]"
Hit: TypeAlias = tuple[RegisteredTool, float]


class Embedder(Protocol):
    """Turns texts into vectors that point the same way when the texts mean the same."""

    def embed(self, texts: Sequence[str]) -> Any:
        """One vector for each text, as an array (texts, dimensions). Blocks; called in one thread at a time."""
        ...


class LocalEmbedder:
    """WordLlama's 256 dimensions: 17 MB that come with the package, no network; 30 µs for a query. English mostly."""

    def __init__(self) -> None:
        self._model: Any = None

    def embed(self, texts: Sequence[str]) -> Any:
        if self._model is None:
            self._model = _local_model()
        return self._model.embed(list(texts))


class Near:
    """How near the tools are to one query: the cosine for each."""

    def __init__(self, tools: tuple[RegisteredTool, ...], places: Mapping[str, int], cosines: Vectors) -> None:
        self._tools = tools
        self._places = places
        self._cosines = cosines

    def fused(self, spelt: Iterable[Hit], alpha: float) -> Iterator[Hit]:
        """Tools with a score above 0, best first, ties by id. `spelt` are the hits by words, the best first."""
        scores = np.maximum(self._cosines, 0) * (1 - alpha)
        best = 0.0
        for tool, score in spelt:
            best = best or score
            # One that came while the query was embedded has no vector yet.
            if tool.id in self._places:
                scores[self._places[tool.id]] += alpha * score / best
        for place in np.argsort(-scores, kind="stable"):
            if scores[place] <= 0:
                return
            yield self._tools[place], float(scores[place])


class Meaning:
    """The vectors of a registry's tools; each text is embedded once, and again only when it has changed."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, Vectors] = {}
        self._texts: dict[str, tuple[Tool, str]] = {}
        self._tools: tuple[RegisteredTool, ...] = ()
        self._places: dict[str, int] = {}
        self._matrix: Vectors = np.zeros((0, 0), np.float32)
        self._lock = anyio.Lock()

    async def near(self, query: str, tools: tuple[RegisteredTool, ...]) -> Near:
        """Raises ToolUnavailable when the embedder fails, InvalidRequest when it gives no vectors."""
        if not tools:
            return Near((), {}, np.zeros(0, np.float32))
        # Also keeps the embedder to one thread at a time.
        async with self._lock:
            if tools is not self._tools:
                await self._refresh(tools)
            matrix, places = self._matrix, self._places
            vector = (await self._embed([query]))[0]
        if vector.shape != matrix.shape[1:]:
            raise InvalidRequest(
                f"the embedder gave {vector.size} numbers for a query and {matrix.shape[1]} for a tool"
            )
        # Not `@`: its threads wait for each other, which on a busy machine takes a hundred times as long as the sum.
        return Near(tools, places, np.einsum("ij,j->i", matrix, vector))

    async def _refresh(self, tools: tuple[RegisteredTool, ...]) -> None:
        self._texts = {registered.id: self._text(registered) for registered in tools}
        texts = [text for _, text in self._texts.values()]
        missing = iter([text for text in dict.fromkeys(texts) if text not in self._vectors])
        while batch := list(islice(missing, BATCH)):
            self._vectors |= zip(batch, await self._embed(batch), strict=True)
        self._vectors = {text: self._vectors[text] for text in texts}
        try:
            self._matrix = np.stack([self._vectors[text] for text in texts])
        except ValueError as exc:
            self._vectors.clear()
            raise InvalidRequest("the embedder gave vectors of different lengths") from exc
        self._places = {tool_id: place for place, tool_id in enumerate(self._texts)}
        self._tools = tools

    def _text(self, registered: RegisteredTool) -> tuple[Tool, str]:
        known = self._texts.get(registered.id)
        tool = registered.tool
        return known if known is not None and known[0] is tool else (tool, _text(tool))

    async def _embed(self, texts: list[str]) -> Vectors:
        """Vectors of length 1, or 0 where the embedder sees nothing."""
        try:
            given = await anyio.to_thread.run_sync(self._embedder.embed, texts)
        except MissingExtra:
            raise
        except Exception as exc:
            raise ToolUnavailable("the search by meaning", f"its embedder raised {type(exc).__name__}") from exc
        return _normalised(given, len(texts))


def _normalised(given: Any, count: int) -> Vectors:
    try:
        vectors = np.asarray(given, np.float32)
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"the embedder must give an array of numbers, not {type(given).__name__}") from exc
    if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
        raise InvalidRequest(f"the embedder must give {count} rows of finite numbers, not the shape {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalised: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalised


def _text(tool: Tool) -> str:
    named = " ".join([*words(tool.id.namespace), *words(tool.id.name)])
    return f"{named}. {tool.title} {tool.description} {' '.join(tool.tags)}"[:_MAX_TEXT]


def _local_model() -> Any:
    try:
        with _logging_kept():
            import wordllama  # type: ignore[import-untyped]  # noqa: PLC0415 - no types; 100 MB of memory once loaded
    except ImportError as exc:
        raise MissingExtra("local embeddings", "semantic") from exc
    # Its own search for the tokenizer misses the folder that it ships; as a cache it is found, and nothing downloaded.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Whoever is imported within and sets up the logging of the whole program has not done so afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
