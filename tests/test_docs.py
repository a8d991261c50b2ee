"""The documents say what is true: links lead somewhere, code runs, lists are those of the code."""

import os
import re
from pathlib import Path

import pytest

import gateway.errors
from runtimes.limits import DEFAULT_LIMITS, LIMIT_NAMES
from sandbox._exit import ExitCode
from sandbox.cli import EXIT_CODES
from sandbox.config import Settings
from sandbox.profile import PROFILES
from sandbox.tool_settings import ORIGINAL_NAMES, ToolSettings
from tests.conftest import FRUGAL
from tests.gateway.test_metrics import NAMES
from tests.scripts import Scripts

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
MODULE = re.compile(r"`((?:sandbox|runtimes|gateway|proto|tests|examples|benchmarks)/[\w/.]+\.\w+)`")
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if not link.startswith(("https://", "mailto:"))]
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_and_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for file, name in TEST.findall(text):
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
    for file in MODULE.findall(text):
        assert (ROOT / file).exists() or "NAME" in file, f"{page.name} names {file}"


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str, scripts: Scripts, tmp_path: Path) -> None:
    file = tmp_path / "block.py"
    file.write_text(block)
    done = scripts.run(file, cwd=tmp_path, env=os.environ | FRUGAL)
    assert done.returncode == 0, done.stderr


def test_there_are_blocks_to_run() -> None:
    assert len(BLOCKS) >= 4


def test_error_tree_is_the_one_in_the_code() -> None:
    text = gateway.errors.__doc__ or ""
    tree = text[text.index("SandboxError\n") : text.index("\n\n`code`")]
    assert f"```text\n{tree}\n```" in README


def test_error_tree_has_every_class() -> None:
    classes = {
        name
        for name, found in vars(gateway.errors).items()
        if isinstance(found, type) and issubclass(found, gateway.errors.SandboxError)
    }
    assert set(re.findall(r"(?:── |^)(\w+)", tree_lines(), re.MULTILINE)) == classes


def tree_lines() -> str:
    found = re.search(r"```text\n(SandboxError\n.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_exit_codes_are_those_of_the_command() -> None:
    table = README[README.index("| exit code |") : README.index("A snippet that exits with a code")]
    documented = {
        int(code): meaning.strip() for code, meaning in re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE)
    }
    shown = {int(code): meaning for code, meaning in re.findall(r"^ +(\d+) +(.+)$", EXIT_CODES, re.MULTILINE)}
    assert documented == shown
    assert sorted(documented) == sorted(ExitCode)


def test_limits_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \| ", README[README.index("## Limits") :], re.MULTILINE))
    assert tuple(rows) == LIMIT_NAMES
    shown = {
        "wall_seconds": "30",
        "memory_bytes": "256 MiB",
        "disk_bytes": "64 MiB",
        "output_bytes": "1 MiB",
        "tool_calls": "100",
    }
    assert {name: rows[name] for name in DEFAULT_LIMITS.asked()} == shown
    assert (DEFAULT_LIMITS.wall_seconds, DEFAULT_LIMITS.tool_calls) == (30, 100)
    assert (DEFAULT_LIMITS.memory_bytes, DEFAULT_LIMITS.output_bytes) == (256 << 20, 1 << 20)
    assert {rows[name] for name in set(LIMIT_NAMES) - set(DEFAULT_LIMITS.asked())} == {"not asked"}


def test_profiles_are_those_of_the_code() -> None:
    section = README[README.index("## Profiles") : README.index("## How safe")]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == list(PROFILES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|\$ )make ([a-z]+)\b", page.read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_settings_are_those_of_the_code() -> None:
    first, second = (ROOT / "docs" / "settings.md").read_text().split("## Policies")
    rows = re.findall(r"^\| `(\w+)` \| `TOOLEXEC_(\w+?)(?:__…)?` \|", first, re.MULTILINE)
    assert [name for name, _ in rows] == list(Settings.model_fields)
    assert all(variable == name.upper() for name, variable in rows)
    others = dict(re.findall(r"^\| `(\w+)` \|(?: `(\w+)`)? \|", second, re.MULTILINE))
    assert list(others) == list(ToolSettings.model_fields)
    assert {name: other for name, other in others.items() if other} == {
        ours: theirs for theirs, ours in ORIGINAL_NAMES.items()
    }


def test_metrics_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(tool\w+)` \| ([^|]+) \|", text, re.MULTILINE)
    assert {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == NAMES
