"""`toolexec journal` as its users see it."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from gateway.context import Caller
from gateway.journal.base import Blob, CallFinished, CallStarted, ExecutionFinished, ExecutionStarted
from gateway.journal.sql import SqlJournal
from runtimes.mock import MockGuest
from sandbox import AsyncExec
from sandbox.cli import app
from tests.gateway.journals import call, raw, started
from tests.sandbox.test_exec import mocked

pytestmark = pytest.mark.anyio

runner = CliRunner()


async def _script(guest: MockGuest) -> Any:
    await guest.write("out\x1b[31m\n")
    for number in range(2):
        await guest.run_tool("math:add", {"a": number, "b": 2})
    return {"answer": 42}


@pytest.fixture
def url(tmp_path: Path, anyio_backend: str) -> str:
    """A journal with some executions of two tenants, and one call of the host itself."""
    import anyio  # noqa: PLC0415 - run from a fixture that is not async, for commands run their own loop

    url = f"sqlite:///{tmp_path}/journal.db"

    async def fill() -> None:
        async with mocked(_script, journal=SqlJournal(url)) as host:

            @host.tool(namespace="math")
            def add(a: int, b: int) -> int:
                """Add."""
                return a + b

            for tenant_id in ("acme", "other"):
                await host.execute_code("1 + 1", caller=Caller(tenant_id=tenant_id, user_id="u"))
            await host.run_tool("math:add", {"a": 1, "b": 1})

    anyio.run(fill)
    return url


def run(*arguments: str, code: int = 0) -> str:
    done = runner.invoke(app, ["journal", *arguments])
    assert done.exit_code == code, done.output
    return done.stdout


def rows(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*arguments, "--json"))
    return found


def test_list_filters(url: str) -> None:
    where = ("list", "--journal", url)
    assert [row["tenant_id"] for row in rows(*where)] == ["", "other", "acme"]
    assert [row["calls"] for row in rows(*where)] == [1, 2, 2]
    assert [row["tenant_id"] for row in rows(*where, "--tenant", "acme")] == ["acme"]
    assert [row["tenant_id"] for row in rows(*where, "--outcome", "completed", "--limit", "1")] == ["other"]
    assert len(rows(*where, "--tool", "math:*")) == 3
    assert rows(*where, "--tool", "math:sub") == []
    assert len(rows(*where, "--since", "1h")) == 3
    assert rows(*where, "--until", "1h") == []
    assert rows(*where, "--since", "2999-01-01") == []
    text = run(*where).splitlines()
    assert len(text) == 3
    assert text[1].split("\t")[2:6] == ["other", "mock", "2", "completed"]


def test_the_setting_names_the_journal(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no journal is named" in runner.invoke(app, ["journal", "list"]).stderr
    monkeypatch.setenv("TOOLEXEC_JOURNAL", url)
    assert len(rows("list")) == 3


def test_show_has_a_waterfall(url: str) -> None:
    (one,) = rows("list", "--journal", url, "--tenant", "acme")
    text = run("show", one["execution_id"], "--journal", url, "--code")
    assert "tenant: acme" in text
    assert 'value: {"answer":42}' in text
    assert r"stdout: out\x1b[31m" in text
    assert "1 + 1" in text
    assert len(re.findall(r"^  math:add  completed .*\|.*=.*\|$", text, re.MULTILINE)) == 2
    kinds = [record["kind"] for record in rows("show", one["execution_id"], "--journal", url)]
    assert kinds == ["execution_started", *("call_started", "call_finished") * 2, "execution_finished"]


def test_show_of_what_is_not_there(url: str) -> None:
    done = runner.invoke(app, ["journal", "show", "nope", "--journal", url, "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["code"] == "not_recorded"


def test_tail_has_the_newest_last(url: str) -> None:
    assert [line.split("\t")[2] for line in run("tail", "--journal", url).splitlines()] == ["acme", "other", ""]
    assert [line.split("\t")[2] for line in run("tail", "-n", "1", "--journal", url).splitlines()] == [""]
    run("tail", "-n", "0", "--journal", url, code=2)


def test_tail_follows(url: str) -> None:
    command = [sys.executable, "-c", "from sandbox.cli import main; main()", "journal", "tail", "-f", "-n", "1"]
    with subprocess.Popen([*command, "--journal", url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "host" in process.stdout.readline()
        with raw(Path(url.removeprefix("sqlite:///"))) as connection:
            connection.execute(
                "INSERT INTO journal_executions SELECT 'new', tenant_id, owner, started_at + 1, language, profile, "
                "backend, mode, parent, outcome, ended_at FROM journal_executions WHERE tenant_id = 'acme'"
            )
        while (line := process.stdout.readline()).split("\t")[1:2] != ["new"]:
            assert line
        process.kill()


def test_export_is_lines_of_json(url: str) -> None:
    lines = [json.loads(line) for line in run("export", "--journal", url, "--tenant", "acme").splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0]["content"]["code"]["text"] == "1 + 1"
    assert {line["tenant"] for line in lines} == {"acme"}
    run("export", "--journal", url, "--format", "xml", code=2)
    run("export", "--journal", url, "--format", "otlp", "--blobs", code=2)


def test_export_as_traces(url: str) -> None:
    traces = [json.loads(line) for line in run("export", "--journal", url, "--format", "otlp").splitlines()]
    assert len(traces) == len(run("list", "--journal", url).splitlines())
    told = [trace["resourceSpans"][0]["scopeSpans"][0]["spans"] for trace in traces]
    spans = next(spans for spans in told if len(spans) == 3)
    root, *calls = spans
    assert [span["name"] for span in spans] == ["execute_code", "tool math:add", "tool math:add"]
    assert {span["parentSpanId"] for span in calls} == {root["spanId"]}
    assert len({span["traceId"] for span in spans}) == 1
    assert len({span["spanId"] for span in spans}) == 3
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)


def test_a_call_of_the_host_itself_is_a_trace_of_its_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/host.db"

    async def work() -> None:
        async with AsyncExec(journal=url) as exec:
            exec.tool(name="ping")(lambda: "pong")
            await exec.run_tool("ping")

    anyio.run(work)
    (trace,) = [json.loads(line) for line in run("export", "--journal", url, "--format", "otlp").splitlines()]
    (span,) = trace["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert (span["name"], span.get("parentSpanId", "")) == ("tool ping", "")


def test_verify_says_what_was_changed(url: str, tmp_path: Path) -> None:
    where = ("verify", "--journal", url)
    assert "all in order" in run(*where)
    before = tmp_path / "before.json"
    before.write_text(run(*where, "--json"))
    assert json.loads(before.read_text())["ok"] is True
    assert "all in order" in run(*where, "--checkpoint", str(before))
    with raw(tmp_path / "journal.db") as connection:
        connection.execute("DELETE FROM journal_records WHERE tenant_id = 'acme' AND sequence > 4")
    assert "what came after was removed" in run(*where, "--checkpoint", str(before), code=1)
    with raw(tmp_path / "journal.db") as connection:
        connection.execute("UPDATE journal_records SET content = '{}' WHERE tenant_id = 'acme' AND sequence = 3")
    text = run(*where, code=1)
    assert "WRONG tenant acme, record 3: the content of this call_finished was changed" in text
    assert json.loads(run(*where, "--json", code=1))["findings"][0]["sequence"] == 3
    before.write_text("{}")
    run(*where, "--checkpoint", str(before), code=2)


def test_verify_says_what_is_not_signed(url: str, tmp_path: Path) -> None:
    key, file = Ed25519PrivateKey.generate(), tmp_path / "public.pem"
    file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    where = ("verify", "--journal", url)
    text = run(*where, "--key", str(file), code=1)
    assert "WRONG tenant acme: nothing of this chain is signed with a key that was given" in text
    assert "0 signatures: 3 findings" in text
    assert "signature," not in run(*where)
    assert json.loads(run(*where, "--json"))["unsigned"] is None

    async def sign() -> None:
        journal = SqlJournal(url, signing_key=key, sign_every=1)
        for tenant_id in ("acme", "other", ""):
            await journal.append(started(f"signed-{tenant_id}", tenant_id))
        await journal.aclose()
        journal = SqlJournal(url)
        await journal.append(call("signed-acme", 0), call("signed-acme", 1))
        await journal.aclose()

    anyio.run(sign)
    text = run(*where, "--key", str(file))
    assert "tenant acme: 9 records, 2 of them after its last signature, head" in text
    assert "all in order" in text
    assert json.loads(run(*where, "--key", str(file), "--json"))["unsigned"] == {"": 0, "acme": 2, "other": 0}


def test_prune_says_what_it_deleted(url: str) -> None:
    assert "deleted 0 executions" in run("prune", "--older-than", "1d", "--journal", url)
    assert "deleted 1 executions with 6 records" in run(
        "prune", "--older-than", "0s", "--tenant", "acme", "--journal", url
    )
    assert "all in order" in run("verify", "--journal", url)
    for wrong in ("30", "d", "-1d", "1.5h"):
        run("prune", "--older-than", wrong, "--journal", url, code=2)


def test_looking_makes_no_journal(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    for command in (["list"], ["verify"], ["show", "e"], ["prune", "--older-than", "1d"]):
        done = runner.invoke(app, ["journal", *command, "--journal", url])
        assert done.exit_code == 5
        assert "there is no such file" in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_times_of_a_filter_are_checked(url: str) -> None:
    for wrong in ("yesterday", "2h30m", ""):
        run("list", "--since", wrong, "--journal", url, code=2)


# What an execution leaves in it


async def test_all_of_an_execution_is_recorded(tmp_path: Path) -> None:
    journal = SqlJournal(f"sqlite:///{tmp_path}/journal.db")
    async with AsyncExec(allow_unsafe=True, journal=journal) as host:

        @host.tool
        def big(size: int) -> str:
            """A long text."""
            return "x" * size

        result = await host.execute_code(
            "print('out'); open('left', 'w').write('file'); [len(tools.big(size=100_000)), {'b': 1.0, 'a': 2**70}]",
            profile="dev",
            backend="unsafe",
            env={"NAME": "value"},
            files={"in": "data"},
            caller=Caller(tenant_id="acme", permissions=frozenset({"b", "a"})),
        )
        assert result.ok, result
        assert host.journal is journal
        first, call, answer, last = await journal.records(result.execution_id)
    journal = SqlJournal(f"sqlite:///{tmp_path}/journal.db")
    assert isinstance(first, ExecutionStarted)
    assert (first.tenant_id, first.caller) == ("acme", {"tenant_id": "acme", "permissions": ["a", "b"]})
    assert (first.env.as_json(), first.files["in"].as_text()) == ({"NAME": "value"}, "data")
    assert {"tool_calls", "wall_seconds"} <= {*first.enforced}
    assert (len(first.seed), first.mode, first.parent) == (64, "live", "")
    assert first.environment["backend"] == "unsafe"
    assert first.at <= datetime.now(UTC)
    assert isinstance(call, CallStarted)
    assert isinstance(answer, CallFinished)
    assert call.arguments.as_json() == {"size": 100_000}
    assert answer.result is not None
    assert await journal.read(answer.result) == Blob.of_json("x" * 100_000).data
    assert isinstance(last, ExecutionFinished)
    assert last.value is not None
    assert last.value.as_text() == '[100000,{"b":1.0,"a":1180591620717411303424}]'
    assert (last.outcome, last.stdout.as_text(), last.artifacts["left"].as_text()) == ("completed", "out\n", "file")
    assert last.evidence["isolation"] == "none"
    assert (await journal.verify()).ok
    await journal.aclose()


async def test_secrets_are_masked_before_they_are_hashed(tmp_path: Path) -> None:
    journal = SqlJournal(f"sqlite:///{tmp_path}/journal.db")
    value = "s3cr3t-value-of-the-host"
    async with AsyncExec(allow_unsafe=True, journal=journal, secrets={"KEY": value}) as host:

        @host.tool
        def echo(text: str) -> str:
            """Say it again."""
            return text * 2000

        await host.execute_code(
            f"print('{value}'); tools.echo(text='{value}')",
            profile="dev",
            backend="unsafe",
            env={"NAME": value},
            files={"in": value},
            caller=Caller(extras={"key": value}),
        )
    assert value.encode() not in everything(tmp_path)


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())
