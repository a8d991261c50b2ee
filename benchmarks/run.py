"""Measures what docs/performance.md reports, each figure beside a reference from the same run.

    python benchmarks/run.py [--quick] [--only TOPIC ...] [--json FILE]

Prints a table for each topic, and with `--json` writes the figures. Nothing else should run on the machine meanwhile.
"""

import argparse
import importlib
import json
import multiprocessing
import platform
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import uvloop
from figures import Figure, show

# The module of each topic, in order: its `measure(share)` gives the figures, from this share of all rounds. A module
# must not have the name of a library, which could then not be imported.
TOPICS = {
    "sandboxes": "sandboxes",
    "containers": "containers",
    "tools": "tools",
    "policies": "tool_policies",
    "catalogue": "catalogue",
    "search": "search",
    "http": "http_tools",
    "sql": "sql",
    "journal": "journal",
}


def measure(topic: str, share: float) -> list[Figure]:
    figures: list[Figure] = uvloop.run(importlib.import_module(TOPICS[topic]).measure(share))
    return figures


def measured(topics: Iterable[str], share: float) -> Iterator[tuple[str, list[Figure]]]:
    """Each topic in a process of its own: what one imports, logs or leaves on the heap is not the next one's."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for topic in topics:
            yield topic, pool.submit(measure, topic, share).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=[*TOPICS], metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args()
    share = 0.1 if options.quick else 1.0
    found = []
    for topic, figures in measured((topic for topic in TOPICS if topic in options.only), share):
        show(topic, figures)
        found += [{"topic": topic, **asdict(figure)} for figure in figures]
    if options.json:
        facts = {"machine": platform.platform(), "python": platform.python_version(), "share": share}
        options.json.write_text(json.dumps({**facts, "figures": found}, indent=2))


if __name__ == "__main__":
    main()
