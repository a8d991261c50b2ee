"""Every execution of every example, replayed: the same to the last byte on WASM, the same calls elsewhere.

`tests/example_host.py` runs them, and says what is left out.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import ROOT, Scripts
from tests.test_examples import EXAMPLES, environment, normalised

pytestmark = pytest.mark.usefixtures("wasm")

GUEST_ENDS = {"completed", "raised", "exited"}

OTHER_VALUE = {"mcp_servers"}
"""Its value counts the tools that it finds, and there are others by the end: discovery is answered anew."""


def replayed(scripts: Scripts, path: Path, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """What the example said, and what became of each replay."""
    reports = folder / "reports"
    env = environment() | {"TOOLEXEC_JOURNAL": f"sqlite:///{folder}/journal.db", "PYTHONPATH": str(ROOT)}
    done = scripts.run(ROOT / "tests" / "example_host.py", path, reports, cwd=folder, env=env, seconds=90)
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in reports.read_text().splitlines()]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_execution_of_an_example_replays_the_same(path: Path, scripts: Scripts, tmp_path: Path) -> None:
    said, reports = replayed(scripts, path, tmp_path)
    assert normalised(said) == path.with_suffix(".out").read_text()  # so no tool that says something was called again
    assert reports
    for told in reports:
        assert not told["recorded"], told
        if path.stem in OTHER_VALUE and "diverged" in told:
            assert "it ended otherwise\n  recorded: completed" in told["diverged"], told  # so each call was found again
            continue
        assert "diverged" not in told, told
        assert told["same"], told
        assert told["exact"] or not must_be_exact(told), told


def must_be_exact(told: dict[str, Any]) -> bool:
    """What ran to its end on WASM. The last moments of what a limit ended are not recorded."""
    return bool(told["run"] and told["backend"] == "wasm" and told["outcome"] in GUEST_ENDS)
