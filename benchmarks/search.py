"""Finding and describing tools in a catalogue of 5,000: what it costs a caller who waits."""

import dataclasses
import itertools
import random
from collections.abc import Iterator
from functools import partial

from figures import Figure, rounds, spread, timed, timed_sync

from gateway.base import DetailLevel
from gateway.providers.function import function_tool
from gateway.tools.docs import describe
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch
from gateway.tools.semantic import LocalEmbedder
from gateway.tools.stubs import stub_module
from runtimes.check import check_snippet

TOOLS = 5000
VERBS = (
    *("get", "list", "create", "update", "delete", "find", "export", "import", "send", "archive", "restore", "merge"),
    *("approve", "reject", "assign", "close", "open", "sync", "rename", "copy"),
)
NOUNS = (
    *("customer", "invoice", "order", "ticket", "file", "report", "user", "account", "message", "channel", "payment"),
    *("refund", "product", "price", "contract", "lead", "meeting", "task", "project", "repository", "branch", "commit"),
    *("build", "server", "database", "table", "email", "attachment", "folder", "policy", "alert", "metric", "budget"),
    *("vendor", "shipment", "warehouse", "campaign", "survey", "course", "ledger"),
)
KINDS = ("active", "old", "draft", "monthly", "weekly", "shared", "public", "private", "external", "internal")
QUERIES = (
    "create invoice",
    "refund",
    "approve payment",
    "list the weekly reports",
    "delete private file",
    "send message to channel",
    "merge",
    "price of a product",
)


def nothing(id: str, limit: int = 10, verbose: bool = False) -> dict[str, str]:  # noqa: A002, FBT001, FBT002 - a tool's
    raise NotImplementedError


def tools(count: int = TOOLS) -> Iterator[Tool]:
    """Tools whose names and words overlap as those of many products do."""
    chance = random.Random(7)
    made = function_tool(nothing)
    for number in range(count):
        verb, kind, noun, other = (chance.choice(words) for words in (VERBS, KINDS, NOUNS, NOUNS))
        text = f"{verb.title()} the {kind} {noun} of a {other}. Gives the {noun} and what became of the {other}."
        tool_id = ToolId(f"{verb}_{kind}_{noun}_{number}", f"ns{number % 50}")
        yield dataclasses.replace(made, id=tool_id, description=text, tags=(noun, other))


async def measure(share: float) -> list[Figure]:
    registry = ToolRegistry(tools())
    count = rounds(400, share)
    by_words, by_meaning = ToolSearch(registry), ToolSearch(registry, embedder=LocalEmbedder())
    return [
        spread("search: first, with 5,000 tools to index", "ms", await searched(by_words, 1)),
        spread("search: 5,000 tools by words", "ms", await searched(by_words, count), target=1),
        spread("search: first by meaning, with 5,000 texts to embed", "ms", await searched(by_meaning, 1)),
        spread("search: 5,000 tools by words and meaning", "ms", await searched(by_meaning, count)),
        spread("describe: summary", "µs", described(registry, "summary", count), target=100),
        spread("describe: full", "µs", described(registry, "full", count), target=100),
        spread("stubs: of 100 tools", "ms", stubbed(registry, rounds(10, share))),
        spread("check: a snippet with 100 tools", "ms", await checked(registry, rounds(10, share))),
    ]


async def searched(search: ToolSearch, count: int) -> list[float]:
    async def find(query: str) -> None:
        assert await search.find(query)

    queries = itertools.islice(itertools.cycle(QUERIES), count)
    return [await timed(partial(find, query)) for query in queries]


def described(registry: ToolRegistry, level: DetailLevel, count: int) -> list[float]:
    return [timed_sync(partial(describe, tool, level)) for tool in registry.tools()[:count]]


def stubbed(registry: ToolRegistry, count: int) -> list[float]:
    shown = registry.tools()[:100]
    return [timed_sync(lambda: stub_module(shown)) for _ in range(count)]


async def checked(registry: ToolRegistry, count: int) -> list[float]:
    shown = registry.tools()[:100]
    stubs = stub_module(shown)

    async def check() -> None:
        assert not await check_snippet(f"tools.{shown[0].address.replace(':', '.')}(id='7')", stubs)

    return [await timed(check) for _ in range(count)]
