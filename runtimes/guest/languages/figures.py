"""Figures that a Python snippet left open in matplotlib, as files in its working folder; where there is matplotlib."""

import importlib.util
import sys
from pathlib import Path


def environment(tmp: Path) -> dict[str, str]:
    """What matplotlib must be told before it is imported: draw without a screen, keep your notes out of `work`."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    return {"MPLBACKEND": "agg", "MPLCONFIGDIR": str(tmp / "matplotlib")}


def save(work: Path) -> None:
    """Write the open figures to `figure-1.png`, `figure-2.png` and so on; a file that is there is left alone."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    try:
        for index, number in enumerate(pyplot.get_fignums(), 1):
            path = work / f"figure-{index}.png"
            if not path.exists():
                pyplot.figure(number).savefig(path)
    except BaseException as error:  # noqa: BLE001 - drawing runs code of the snippet, whose own ending counts
        print(f"toolexec: an open figure was not kept: {type(error).__name__}: {error}", file=sys.stderr)
