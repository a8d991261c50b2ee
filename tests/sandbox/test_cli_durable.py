"""`toolexec approvals`, `journal replay` and `journal resume` as their users see them."""

import json
from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner

from gateway.policies.approval import Approval
from gateway.policies.base import Policies
from gateway.providers.function import function_tool
from runtimes.wasm.backend import WASM
from sandbox import AsyncExec
from sandbox.cli import app
from tests.conftest import require

runner = CliRunner()
HERE = "tests.sandbox.test_cli_durable:TOOLS"


def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


TOOLS = [function_tool(pay, policies=Policies(approval=Approval(reason="money")))]


@pytest.fixture
def journal(tmp_path: Path) -> str:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    return f"sqlite:///{tmp_path}/journal.db"


def suspended(journal: str) -> str:
    async def work() -> str:
        async with AsyncExec(journal=journal, workers=1, pool_size=1) as exec:
            exec.register(*TOOLS)
            return (await exec.execute_code("print('hello')\ntools.pay(amount=5)", backend="wasm")).execution_id

    return anyio.run(work)


def command(*words: str, code: int = 0) -> str:
    done = runner.invoke(app, words)
    assert done.exit_code == code, done.output
    return done.output


def test_a_call_is_approved_resumed_and_replayed(journal: str) -> None:
    execution_id = suspended(journal)
    (pending,) = json.loads(command("approvals", "list", "--journal", journal, "--json"))
    assert (pending["tool_id"], pending["arguments"], pending["reason"]) == ("pay", {"amount": 5}, "money")
    assert pending["id"] in command("approvals", "list", "--journal", journal)
    command("approvals", "approve", "nonsense", "--journal", journal, code=2)
    command("approvals", "edit", pending["id"], "[1]", "--tools", HERE, "--journal", journal, code=2)
    command("approvals", "edit", pending["id"], '{"amount": 4}', "--tools", HERE, "--by", "ann", "--journal", journal)
    assert "paid 4" in command("journal", "resume", execution_id, "--tools", HERE, "--journal", journal)
    shown = " ".join(command("journal", "show", execution_id, "--journal", journal).split())
    assert 'asked: whether to make call 0 of pay with {"amount":5}: money' in shown
    assert 'edited: call 0, by ann, with {"amount":4} in place of its arguments' in shown
    assert "profile standard, taken up again" in shown
    command("journal", "resume", execution_id, "--journal", journal, code=2)
    said = command("journal", "replay", execution_id, "--journal", journal)
    assert said == "the same, to the last byte; 1 calls answered\n"


def test_what_the_command_ran_is_taken_up_by_it(journal: str, tmp_path: Path) -> None:
    (snippet := tmp_path / "snippet.py").write_text("tools.pay(amount=5)")
    command("run", str(snippet), "--tools", HERE, "--backend", "wasm", "--journal", journal, code=4)
    (pending,) = json.loads(command("approvals", "list", "--journal", journal, "--json"))
    command("approvals", "approve", pending["id"], "--journal", journal)
    assert "paid 5" in command("journal", "resume", pending["execution_id"], "--tools", HERE, "--journal", journal)


def test_an_execution_whose_journal_fails_says_which_it_was(journal: str, tmp_path: Path) -> None:
    (snippet := tmp_path / "snippet.py").write_text("1")
    missing = journal.replace("journal.db", "missing/journal.db")
    done = runner.invoke(app, ["run", str(snippet), "--backend", "wasm", "--journal", missing, "--json"])
    assert done.exit_code == 5
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "journal_unavailable"
    assert f"(execution {error['execution_id']})" in done.stderr


def test_a_rejected_call_fails_and_other_code_is_told_apart(journal: str, tmp_path: Path) -> None:
    execution_id = suspended(journal)
    (pending,) = json.loads(command("approvals", "list", "--journal", journal, "--json"))
    command("approvals", "reject", pending["id"], "--reason", "too much", "--journal", journal)
    words = ("journal", "resume", execution_id, "--tools", HERE, "--journal", journal, "--json")
    done = json.loads(command(*words, code=1))
    assert done["error"]["message"] == "the call of tool 'pay' was not approved: too much"
    other = tmp_path / "other.py"
    other.write_text("tools.pay(amount=6)")
    said = command("journal", "replay", execution_id, "--code", str(other), "--journal", journal, code=1)
    assert "not recorded: a call of pay" in said
    assert "not made: pay (call 0)" in said
