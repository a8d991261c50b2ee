"""Measures what docs/performance.md reports, each figure beside a reference from the same run.

    python benchmarks/run.py [--quick] [--only TOPIC ...] [--json FILE]

Prints a table for each topic, and with `--json` writes the figures. Nothing else should run on the machine meanwhile.
"""

import argparse
import gc
import importlib
import json
import platform
from dataclasses import asdict
from pathlib import Path

import uvloop
from figures import Figure, show

# The module of each topic, in order: its `measure(share)` gives the figures of this share of all rounds. A module must
# not have the name of a library, which could then not be imported.
TOPICS = {
    "sandboxes": "sandboxes",
    "tools": "tools",
    "catalogue": "catalogue",
    "search": "search",
    "http": "http_tools",
    "sql": "sql",
}


def measure(topic: str, share: float) -> list[Figure]:
    gc.collect()  # what the topic before left behind
    figures: list[Figure] = uvloop.run(importlib.import_module(TOPICS[topic]).measure(share))
    show(topic, figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=list(TOPICS), metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    share = 0.1 if options.quick else 1.0
    figures = {topic: measure(topic, share) for topic in TOPICS if topic in options.only}
    if options.json:
        facts = {"machine": platform.platform(), "python": platform.python_version(), "share": share}
        found = [{"topic": topic, **asdict(figure)} for topic in figures for figure in figures[topic]]
        options.json.write_text(json.dumps({**facts, "figures": found}, indent=2))


if __name__ == "__main__":
    main()
