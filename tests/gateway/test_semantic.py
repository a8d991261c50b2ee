"""Search by meaning, with embedders of our own and with the one that is shipped."""

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import anyio
import numpy as np
import pytest

from gateway.base import ToolSummary
from gateway.errors import InvalidRequest, ToolUnavailable
from gateway.providers.function import function_tool
from gateway.tools.model import ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch
from gateway.tools.semantic import BATCH, LocalEmbedder

TOOLS = {
    "pay:refund": "Give a customer their money back.",
    "mail:send": "Deliver a letter to a recipient.",
    "weather": "Forecast for a place.",
    "files:create": "Write a new document to disk.",
}
MEANINGS = {"refund": 0, "money": 0, "reimburse": 0, "mail": 1, "letter": 1, "weather": 2, "rain": 2, "document": 3}


class Axes:
    """One dimension for each meaning; keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[list[str]] = []
        self.threads: set[str] = set()

    def embed(self, texts: Sequence[str]) -> Any:
        self.given.append(list(texts))
        self.threads.add(threading.current_thread().name)
        return [[float(self._has(text, axis)) for axis in range(4)] for text in texts]

    def _has(self, text: str, axis: int) -> bool:
        return any(MEANINGS.get(word.strip(".").lower()) == axis for word in text.split())

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.given for text in batch]


def nothing() -> None: ...


def registry(tools: dict[str, str] = TOOLS) -> ToolRegistry:
    made = function_tool(nothing)
    return ToolRegistry(
        dataclasses.replace(made, id=ToolId.parse(tool_id), description=text) for tool_id, text in tools.items()
    )


def ids(found: tuple[ToolSummary, ...]) -> list[str]:
    return [hit.id for hit in found]


async def test_what_means_the_same_is_found_without_a_word_in_common() -> None:
    assert await ToolSearch(registry()).find("reimburse") == ()
    assert ids(await ToolSearch(registry(), embedder=Axes()).find("reimburse")) == ["pay:refund"]


async def test_a_title_has_a_meaning_too() -> None:
    tool = dataclasses.replace(function_tool(nothing), id=ToolId("t1"), title="Refund")
    assert ids(await ToolSearch(ToolRegistry([tool]), embedder=Axes()).find("reimburse")) == ["t1"]


async def test_alpha_0_is_meaning_only_and_1_is_words_only() -> None:
    query = "rain letter deliver"  # the letter by both, the weather by meaning
    by_words = await ToolSearch(registry()).find(query)
    assert ids(by_words) == ["mail:send"]
    embedder = Axes()
    assert await ToolSearch(registry(), embedder=embedder, alpha=1).find(query) == by_words
    assert embedder.given == []
    by_meaning = await ToolSearch(registry(), embedder=Axes(), alpha=0).find(query)
    assert ids(by_meaning) == ["mail:send", "weather"]
    assert [hit.score for hit in by_meaning] == pytest.approx([2**-0.5, 2**-0.5])


async def test_scores_are_shares_of_words_and_meaning() -> None:
    search = ToolSearch(registry(), embedder=Axes(), alpha=0.25)
    scores = {hit.id: hit.score for hit in await search.find("rain letter deliver")}
    assert scores == {
        "mail:send": pytest.approx(0.25 + 0.75 * 2**-0.5, abs=1e-6),
        "weather": pytest.approx(0.75 * 2**-0.5, abs=1e-6),
    }


async def test_texts_are_embedded_once_and_queries_once_for_each_search() -> None:
    tools, embedder = registry(), Axes()
    search = ToolSearch(tools, embedder=embedder)
    await search.find("rain")
    await search.find("letter")
    assert sorted(map(len, embedder.given)) == [1, 1, 4]
    tools.register(dataclasses.replace(function_tool(nothing), id=ToolId("umbrella"), description="Against rain."))
    tools.unregister("files:create")
    assert ids(await search.find("rain")) == ["umbrella", "weather"]
    assert len(embedder.texts) == 4 + 3 + 1
    await search.find("")
    assert len(embedder.texts) == 4 + 3 + 1


async def test_the_event_loop_goes_on_while_texts_are_embedded() -> None:
    class Slow(Axes):
        def embed(self, texts: Sequence[str]) -> Any:
            time.sleep(0.2)
            return super().embed(texts)

    embedder, ticks = Slow(), 0
    search = ToolSearch(registry(), embedder=embedder)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.01)
            ticks += 1

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await search.find("rain")
        group.cancel_scope.cancel()
    assert ticks > 5
    assert threading.current_thread().name not in embedder.threads


async def test_searches_at_once_embed_each_text_once() -> None:
    embedder = Axes()
    search = ToolSearch(registry(), embedder=embedder)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(search.find, "rain")
    assert len(embedder.texts) == 4 + 5


async def test_a_large_catalogue_is_embedded_in_batches_and_a_cancelled_search_leaves_it_usable() -> None:
    class Interrupted(Axes):
        def embed(self, texts: Sequence[str]) -> Any:
            if not self.given:
                anyio.from_thread.run_sync(scope.cancel)
            return super().embed(texts)

    embedder = Interrupted()
    search = ToolSearch(registry({f"tool{number}": f"rain {number}" for number in range(BATCH * 3)}), embedder=embedder)
    with anyio.CancelScope() as scope:
        await search.find("rain")
    assert scope.cancelled_caught
    assert len(embedder.given) == 1
    assert len(await search.find("rain", 1000)) == BATCH * 3
    assert max(map(len, embedder.given)) == BATCH
    assert len(embedder.texts) <= BATCH * 4 + 1


async def test_pages_and_filters_hold_for_meaning_too() -> None:
    search = ToolSearch(registry(), embedder=Axes())
    whole = await search.find("rain letter money", 10)
    first = await search.page("rain letter money", 2)
    rest = await search.page("rain letter money", 2, first.cursor)
    assert (*first.items, *rest.items) == whole
    assert rest.cursor is None
    assert ids(await search.find("rain letter money", namespace="pay")) == ["pay:refund"]
    assert ids(await search.find("rain letter money", permits=lambda tool: tool.id == "weather")) == ["weather"]


async def test_a_registry_without_tools_has_no_hits() -> None:
    assert await ToolSearch(ToolRegistry(), embedder=Axes()).find("rain") == ()


class Gives:
    def __init__(self, given: Any) -> None:
        self._given = given

    def embed(self, texts: Sequence[str]) -> Any:
        return self._given(texts)


@pytest.mark.parametrize(
    "given",
    [
        lambda _: None,
        lambda _: "text",
        lambda texts: [[1.0]] * (len(texts) + 1),
        lambda texts: [1.0] * len(texts),
        lambda texts: [[float("nan")]] * len(texts),
        lambda texts: [[1.0] * (number + 1) for number, _ in enumerate(texts)],
        lambda texts: [[1.0] * len(texts)] * len(texts),
    ],
)
async def test_vectors_that_are_none_are_refused(given: Any) -> None:
    search = ToolSearch(registry(), embedder=Gives(given))
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="embedder"):
            await search.find("rain")


async def test_a_failing_embedder_is_unavailable_and_may_recover() -> None:
    answers = iter([ConnectionError("http://user:secret@host"), None])
    axes = Axes()

    def embed(texts: Sequence[str]) -> Any:
        error = next(answers, None)
        if error is not None:
            raise error
        return axes.embed(texts)

    search = ToolSearch(registry(), embedder=Gives(embed))
    with pytest.raises(ToolUnavailable, match="its embedder raised ConnectionError") as caught:
        await search.find("rain")
    assert "secret" not in str(caught.value)
    assert ids(await search.find("rain")) == ["weather"]


async def test_vectors_of_different_lengths_are_not_kept() -> None:
    axes, is_broken = Axes(), True

    def embed(texts: Sequence[str]) -> Any:
        return [[1.0] * (2 + is_broken)] * len(texts) if "rain" in texts or is_broken else axes.embed(texts)

    tools = registry({"pay:refund": TOOLS["pay:refund"]})
    search = ToolSearch(tools, embedder=Gives(embed))
    await search.find("money")
    is_broken = False
    tools.register(dataclasses.replace(function_tool(nothing), id=ToolId("weather"), description="Will it rain?"))
    with pytest.raises(InvalidRequest, match="different lengths"):
        await search.find("money")
    assert ids(await search.find("money")) == ["pay:refund"]


async def test_a_text_without_meaning_has_no_direction() -> None:
    search = ToolSearch(registry(), embedder=Gives(lambda texts: np.zeros((len(texts), 3))))
    assert await search.find("rain") == ()
    assert ids(await search.find("forecast")) == ["weather"]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("reimburse a client", "pay:refund"),
        ("will it rain tomorrow", "weather"),
        ("save my essay", "files:create"),
        ("an email for my boss", "mail:send"),
    ],
)
async def test_the_shipped_embedder_knows_english(query: str, first: str) -> None:
    found = await ToolSearch(registry(), embedder=LocalEmbedder()).find(query)
    assert found[0].id == first


def test_searching_by_words_imports_no_extra() -> None:
    code = "import sys, sandbox; sandbox.Exec; assert not {'numpy', 'wordllama', 'ty'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_the_error_says_how_to_get_it() -> None:
    hidden = "import sys; sys.modules['{0}'] = None\nfrom gateway.errors import MissingExtra\n"
    for code in (
        hidden.format("numpy") + "try:\n    import gateway.tools.semantic\nexcept MissingExtra as exc: print(exc)",
        hidden.format("wordllama") + "from gateway.tools.semantic import LocalEmbedder\n"
        "try:\n    LocalEmbedder().embed(['x'])\nexcept MissingExtra as exc: print(exc)",
    ):
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "pip install 'toolexec[semantic]'" in said


def test_making_the_shipped_embedder_leaves_the_programs_logging_alone() -> None:
    code = (
        "import logging\nfrom gateway.tools.semantic import LocalEmbedder\nLocalEmbedder().embed(['a'])\n"
        "root = logging.getLogger()\nassert (root.handlers, root.level) == ([], logging.WARNING), root.handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
