"""Finding and describing tools in a catalogue of 5,000: what it costs a caller who waits.

python benchmarks/search.py
"""

import asyncio
import dataclasses
import itertools
import random
import time
from collections.abc import Iterator
from typing import NamedTuple

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


class Measured(NamedTuple):
    """One measured thing, in seconds; `target_seconds` is the most that the median may be."""

    name: str
    seconds: list[float]
    target_seconds: float | None = None


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


async def measure(count: int = 400) -> list[Measured]:
    registry = ToolRegistry(tools())
    by_words, by_meaning = ToolSearch(registry), ToolSearch(registry, embedder=LocalEmbedder())
    return [
        Measured("search: first, with 5,000 tools to index", [await found(by_words, "refund")]),
        Measured("search: 5,000 tools by words", await searched(by_words, count), 1e-3),
        Measured("search: first by meaning, with 5,000 texts to embed", [await found(by_meaning, "refund")]),
        Measured("search: 5,000 tools by words and meaning", await searched(by_meaning, count)),
        Measured("describe: summary", described(registry, "summary", count), 100e-6),
        Measured("describe: full", described(registry, "full", count), 100e-6),
        Measured("stubs: of 100 tools", [stubs(registry) for _ in range(10)]),
        Measured("check: a snippet with 100 tools", [await checked(registry) for _ in range(10)]),
    ]


async def searched(search: ToolSearch, count: int) -> list[float]:
    return [await found(search, query) for query in itertools.islice(itertools.cycle(QUERIES), count)]


async def found(search: ToolSearch, query: str) -> float:
    started = time.perf_counter()
    assert await search.find(query)
    return time.perf_counter() - started


def described(registry: ToolRegistry, level: str, count: int) -> list[float]:
    seconds = []
    for tool in registry.tools()[:count]:
        started = time.perf_counter()
        describe(tool, level)
        seconds.append(time.perf_counter() - started)
    return seconds


def stubs(registry: ToolRegistry) -> float:
    started = time.perf_counter()
    stub_module(registry.tools()[:100])
    return time.perf_counter() - started


async def checked(registry: ToolRegistry) -> float:
    shown = registry.tools()[:100]
    text = stub_module(shown)
    started = time.perf_counter()
    assert not await check_snippet(f"tools.{shown[0].address.replace(':', '.')}(id='7')", text)
    return time.perf_counter() - started


async def main() -> None:
    for one in await measure():
        p50, p95 = (sorted(one.seconds)[int(len(one.seconds) * share)] * 1e3 for share in (0.5, 0.95))
        target = "" if one.target_seconds is None else f"   at most {one.target_seconds * 1e3:g} ms"
        print(f"{one.name:55} p50 {p50:8.3f} ms   p95 {p95:8.3f} ms{target}")


if __name__ == "__main__":
    asyncio.run(main())
