"""Runs one example in this process, and replays each of its executions before their Exec is closed.

    python -m tests.example_host EXAMPLE REPORTS

Tools are those that the example had registered by then. REPORTS gets one line of JSON for each execution. Left out
are calls of the host itself, which have no snippet, and executions that the example left, which have no end: a replay
would go on to their limits. What the
example says goes to the standard output, as ever: a tool that a replay called would be heard there.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from gateway.errors import ReplayDiverged
from sandbox import AsyncExec, Exec
from sandbox.durable import ReplayReport

_aclose, _disconnect = AsyncExec.aclose, Exec.disconnect


def install(reports: Path) -> None:
    """Replays go before whatever takes tools away."""
    done: set[str] = set()

    async def replay_all(exec: AsyncExec) -> None:  # noqa: A002 - the project's name for it
        page = await exec.journal.executions(limit=1000)
        for one in page.executions:
            if one.mode != "host" and one.outcome != "cancelled" and one.execution_id not in done:
                done.add(one.execution_id)
                with reports.open("a") as file:
                    file.write(json.dumps(await compared(exec, one.execution_id)) + "\n")

    async def aclose(self: AsyncExec) -> None:
        if not self._closed:
            await replay_all(self)
        await _aclose(self)

    def disconnect(self: Exec, name: str) -> None:
        self._call(replay_all, self._original)
        _disconnect(self, name)

    AsyncExec.aclose = aclose  # type: ignore[method-assign]
    Exec.disconnect = disconnect  # type: ignore[assignment]


async def compared(exec: AsyncExec, execution_id: str) -> dict[str, Any]:  # noqa: A002 - the project's name for it
    found = await exec.journal.execution(execution_id)
    before = await exec.journal.records(execution_id)
    assert found is not None
    told: dict[str, Any] = {"id": execution_id, "backend": found.backend, "outcome": found.outcome}
    try:
        told |= shown(await exec.replay(execution_id))
    except ReplayDiverged as error:
        told["diverged"] = str(error)
    told["recorded"] = await exec.journal.records(execution_id) != before
    return told


def shown(report: ReplayReport) -> dict[str, Any]:
    return {
        "same": report.same,
        "exact": report.exact,
        "run": report.result.evidence != {"run": False},
        "missing": report.missing,
        "unused": len(report.unused),
        "parts": [report.same_outcome, report.same_value, report.same_output],
    }


if __name__ == "__main__":
    path, reports = sys.argv[1:]
    install(Path(reports))
    sys.argv[:] = [path]
    sys.path[0] = str(Path(path).parent)
    runpy.run_path(path, run_name="__main__")
