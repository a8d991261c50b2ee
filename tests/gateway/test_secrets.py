"""Secrets: named by tools, lent by the host, and in nothing that leaves a call."""

import base64
import html
import json
import logging
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidRequest, ToolFailed
from gateway.journal.memory import MemoryJournal
from gateway.payload import Encoded, encode, normalise
from gateway.policies.base import Call, Policies, Proceed
from gateway.providers.cli import cli_tool
from gateway.providers.data import read_tools
from gateway.providers.http import Bearer, HttpApi
from gateway.providers.mcp import McpSource, StdioServer
from gateway.providers.sql import SqlDatabase
from gateway.secrets import MAX_VALUES, SecretRef, Secrets, mask_of, masked
from gateway.tools.model import Tool, ToolId
from sandbox import AsyncExec
from tests.engines import Postgres, postgres
from tests.gateway.http_server import Seen, response, serving

__all__ = ["postgres"]

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
VALUE = 'tok/en+"9 é\\x'
MASK = mask_of("CRM_TOKEN")
FORMS = {
    "plain": VALUE,
    "JSON": json.dumps(VALUE),
    "JSON in UTF-8": json.dumps(VALUE, ensure_ascii=False),
    "JSON in JSON": json.dumps(json.dumps({"a": VALUE})),
    "JSON in JSON in JSON": json.dumps(json.dumps(json.dumps([VALUE], ensure_ascii=False))),
    "URL": quote(VALUE, safe=""),
    "URL, in part": quote(VALUE),
    "URL, small digits": quote(VALUE, safe="").replace("%2F", "%2f"),
    "URL in URL": quote(quote(VALUE, safe=""), safe=""),
    "form": quote_plus(VALUE),
    "HTML": html.escape(VALUE),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 of more": base64.b64encode(f"user:{VALUE}:x".encode()).decode(),
    "base64 at another place": base64.b64encode(f"me:{VALUE}".encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(b"\xff\xfe" + VALUE.encode() + b"\xff").decode(),
    "hex": VALUE.encode().hex(),
    "HEX": VALUE.encode().hex().upper(),
    "cut off": "it is " + VALUE[:9] + "…",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_masked_wherever_it_is(form: str) -> None:
    secrets = Secrets({"CRM_TOKEN": VALUE})
    for value in (FORMS[form], f"before {FORMS[form]}", {"a": [{FORMS[form]: f"x{FORMS[form]}"}]}):
        shown = encode(secrets.value(value), 200).decode()
        assert MASK in shown
        assert secrets.encoded(normalise(value)).data.decode() == shown
        assert "tok/en" not in shown.replace("\\", "")


def test_both_alphabets_of_base64_are_known() -> None:
    secrets = Secrets({"T": "???>>>~~~"})
    assert base64.b64encode(b"???>>>~~~") == b"Pz8/Pj4+fn5+"
    for coded in ("Pz8/Pj4+fn5+", "Pz8_Pj4-fn5-"):
        assert secrets.text(f"({coded})") == "([secret T])"


@pytest.mark.parametrize("text", ["", "token", "tok/en", "TOK/EN", 'tok/e+" 9', "[secret", "é" * 100, "dG9r"])
def test_what_is_no_secret_stays(text: str) -> None:
    secrets = Secrets({"CRM_TOKEN": VALUE})
    assert secrets.text(text) == text
    encoded = normalise({"a": text})
    assert secrets.encoded(encoded) is encoded


@given(
    value=st.text(min_size=6, max_size=20),
    around=st.text(max_size=6),
    form=st.sampled_from(["plain", "json", "ascii", "twice", "url", "form", "html", "base64", "hex"]),
)
def test_masking_never_leaks(value: str, around: str, form: str) -> None:
    assume(value not in mask_of("X"))
    secrets = Secrets({"X": value})
    data = value.encode(errors="surrogatepass")
    assume(not any(0xD800 <= ord(char) <= 0xDFFF for char in value + around))
    shown = {
        "plain": value,
        "json": json.dumps(value, ensure_ascii=False)[1:-1],
        "ascii": json.dumps(value)[1:-1],
        "twice": json.dumps(json.dumps(value))[3:-3],
        "url": quote(value, safe=""),
        "form": quote_plus(value),
        "html": html.escape(value),
        "base64": base64.b64encode((around + value + around).encode()).decode(),
        "hex": data.hex(),
    }[form]
    answer = secrets.encoded(normalise({"text": around + shown + around, "list": [shown]}))
    left = answer.data.decode()
    assert answer.value == json.loads(left)
    for text in (answer.value["text"], answer.value["list"][0]):
        assert value not in text
        assert shown not in text


def test_numbers_and_keys_are_masked_too() -> None:
    secrets = Secrets({"PIN": "123456"})
    assert secrets.value([123456, 9123456.5, {"123456": True}, 12345, None, True]) == [
        mask_of("PIN"),
        "9" + mask_of("PIN") + ".5",
        {mask_of("PIN"): True},
        12345,
        None,
        True,
    ]
    assert secrets.encoded(normalise({"n": 123456})).value == {"n": mask_of("PIN")}


def test_the_longer_secret_goes_first_and_masks_are_not_masked() -> None:
    secrets = Secrets({"A": "abcdef", "B": "abcdefgh", "C": "gh[secret"})
    assert secrets.text("abcdefgh abcdef") == "[secret B] [secret A]"
    assert "gh[secret" not in secrets.text("ghabcdef")


@pytest.mark.parametrize(
    "given",
    [
        {"A": "short"},
        {"A": "secret"},
        {"PASSWORD": "PASSWORD"},
        {"A": "x" * 10, "LONGNAME": "LONGNA"},
        {"": "x" * 10},
        {"a b": "x" * 10},
    ],
)
def test_what_cannot_be_a_secret_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Secrets(given)
    assert "x" * 10 not in str(caught.value)


def test_a_function_is_asked_each_time_and_every_answer_masked() -> None:
    answers = iter(f"token-{number:04}" for number in range(1000))
    secrets = Secrets({"T": lambda: next(answers)})
    assert secrets.text("token-0000") == "token-0000"  # nobody has heard of it yet
    with secrets.lent():
        assert [SecretRef("T")() for _ in range(2)] == ["token-0000", "token-0001"]
    assert secrets.text("token-0000 token-0001") == "[secret T] [secret T]"
    for _ in range(MAX_VALUES + 50):
        secrets.reveal("T")
    assert len(secrets._known) == MAX_VALUES


@pytest.mark.parametrize("answer", ["short", "[secret", 12345678, None])
def test_an_answer_that_cannot_be_a_secret_is_refused(answer: Any) -> None:
    secrets = Secrets({"T": lambda: answer})
    with pytest.raises(InvalidRequest, match="the secret T"):
        secrets.reveal("T")


def test_a_reference_needs_a_host() -> None:
    secrets = Secrets({"T": "value-1"})
    with pytest.raises(InvalidRequest, match=r"no secret 'T'.*secrets="):
        SecretRef("T")()
    with secrets.lent(), pytest.raises(InvalidRequest, match="no secret 'U'"):
        SecretRef("U")()
    assert masked("value-1") == "value-1"
    with secrets.lent():
        assert masked("value-1") == "[secret T]"
    assert "value-1" not in repr(secrets) + repr(SecretRef("T"))


async def test_a_snippet_uses_a_secret_and_never_sees_it() -> None:
    """An API that tells its caller's token in every way that it can."""
    heard: list[str] = []

    async def answer(seen: Seen, writer: Any) -> None:
        sent = dict(seen.headers)["Authorization"].removeprefix("Bearer ")
        heard.append(sent)
        told = {"you": sent, "coded": base64.b64encode(f"u:{sent}".encode()).decode(), "in": json.dumps({"t": sent})}
        status = "400 Bad Request" if "fail" in seen.target else "200 OK"
        writer.write(response(json.dumps(told).encode(), status=status))

    journal = MemoryJournal()
    async with serving(answer) as server, AsyncExec(secrets={"CRM_TOKEN": "s3cret-token"}, journal=journal) as exec:
        api = HttpApi(base_url=server.url, auth=Bearer(SecretRef("CRM_TOKEN")))
        exec.register(api.tool("crm:get", "GET", "/get"), api.tool("crm:fail", "GET", "/fail"))

        @exec.tool
        def echo(text: str) -> str:
            if "raise" in text:
                raise ValueError(f"cannot take {text}")
            return text

        code = """
        import base64
        found = [tools.crm.get()]
        guess = base64.b64decode("czNjcmV0LXRva2Vu").decode()
        for call in (tools.crm.fail, lambda: tools.echo(text=guess), lambda: tools.echo(text="raise " + guess),
                     lambda: tools.run_tool(guess, {guess: guess}), lambda: tools.echo(text=guess, more=guess)):
            try:
                found.append(call())
            except tools.ToolError as error:
                found.append([error.code, error.message, str(error.details)])
        events = tools.stream_chain([(guess, {})])
        found.append([event["data"]["message"] for event in events if event["kind"] == "progress"])
        return found
        """
        events = [event async for event in exec.stream_code(code)]
        result = events[-1].result
        assert result is not None
        assert result.ok, result.error
        assert heard == ["s3cret-token"] * 2
        assert [call.status for call in result.tool_calls] == [
            "completed",
            "failed",
            "completed",
            "failed",
            "refused",
            "failed",
            "refused",
        ]
        assert result.value[-1] == ["[secret CRM_TOKEN] failed"]
        shown = repr(result.value) + repr(result.tool_calls) + repr([event.tool_call for event in events])
        shown += repr(await journal.records(result.execution_id))
        for form in ("s3cret-token", base64.b64encode(b"u:s3cret-token").decode()[3:-3]):
            assert form not in shown
        assert shown.count("[secret CRM_TOKEN]") > 10


@pytest.mark.parametrize(
    "code",
    [
        "print('to' + 'k-123456')",
        "'to' + 'k-123456'",
        "raise ValueError('it is to' + 'k-123456')",
        "tools.echo(text='to' + 'k-123456')",
        "tools.run_tool('to' + 'k-123456')",
    ],
)
async def test_what_is_masked_in_the_record_is_no_divergence(code: str) -> None:
    async with AsyncExec(secrets={"T": "tok-123456"}) as exec:
        exec.tool(name="echo")(lambda text: text)
        result = await exec.execute_code(code)
        report = await exec.replay(result.execution_id)
        assert report.exact
        assert report.same


async def test_streams_and_progress_are_masked() -> None:
    async with AsyncExec(secrets={"T": "s3cret-token"}) as exec:

        @exec.tool
        async def watch(context: ToolContext) -> AsyncIterator[dict[str, str]]:
            context.report("with s3cret-token")
            yield {"line": "got s3cret-token"}
            raise ValueError("lost s3cret-token")

        events = [event async for event in exec.stream_tool("watch")]
        assert [event.kind for event in events] == ["progress", "chunk", "error"]
        assert "s3cret" not in repr(events)
        assert repr(events).count("[secret T]") == 3


class Keeps:
    """A policy that stores what it sees."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        try:
            result = await proceed(call)
        except ToolFailed as error:
            self.seen.append(f"{error} {error.details}".encode())
            raise
        self.seen.append(result.data)
        return result


class Wrapped(Exception):
    pass


async def test_policies_and_exceptions_for_the_host_have_none_either() -> None:
    keeps = Keeps()
    async with AsyncExec(secrets={"T": "s3cret-token"}) as exec:

        @exec.tool(policies=Policies(cache=keeps, idempotency=keeps))
        def give() -> str:
            return "s3cret-token"

        @exec.tool(policies=Policies(retry=keeps))
        def fail() -> str:
            if len(keeps.seen) > 2:
                raise ValueError("lost s3cret-token")
            try:
                raise KeyError("s3cret-token")
            except KeyError as exc:
                raise Wrapped("no luck") from exc

        await exec.run_tool("give")
        assert keeps.seen == [b'"[secret T]"'] * 2
        with pytest.raises(ToolFailed) as caught:
            await exec.run_tool("fail")
        assert keeps.seen[2:] == [b"Wrapped: no luck {'type': 'Wrapped'}"]
        with pytest.raises(ToolFailed):
            await exec.run_tool("fail")
        assert keeps.seen[3:] == [b"ValueError: lost [secret T] {'type': 'ValueError'}"]
        assert "s3cret" not in "".join(traceback.format_exception(caught.value)).replace('KeyError("s3cret-token")', "")


async def test_what_no_secret_touches_is_the_same_as_without() -> None:
    async with AsyncExec(secrets={"T": "s3cret-token"}) as exec, AsyncExec() as plain:
        for host in (exec, plain):

            @host.tool
            def echo(value: Any) -> Any:
                return value

        for value in (None, 1.5, "text", {"a": [1, {"b": "ž"}]}, 2**70):
            assert await exec.run_tool("echo", {"value": value}) == await plain.run_tool("echo", {"value": value})


async def test_written_tools_name_secrets(tmp_path: Path) -> None:
    file = tmp_path / "tools.toml"
    file.write_text(
        """
        [[tools]]
        id = "sh:env"
        provider = { type = "cli", argv = ["/usr/bin/env"], env = { TOKEN = { secret = "CRM_TOKEN" } } }

        [[tools]]
        id = "sh:length"
        provider = { type = "cli", argv = ["sh", "-c", "printf $TOKEN | wc -c"], env.TOKEN.secret = "CRM_TOKEN" }
        """
    )
    async with AsyncExec(secrets={"CRM_TOKEN": lambda: "s3cret-token"}) as exec:
        exec.register(*read_tools(file))
        assert await exec.run_tool("sh:env") == "TOKEN=[secret CRM_TOKEN]\n"
        assert await exec.run_tool("sh:length") == "12\n"
    file.write_text(file.read_text().replace('{ secret = "CRM_TOKEN" }', '{ secret = "A", env = "B" }'))
    with pytest.raises(InvalidRequest, match="does not fit"):
        read_tools(file)


async def test_a_secret_that_is_not_there_fails_the_call_with_the_fix() -> None:
    async with AsyncExec(secrets={"OTHER": "s3cret-token"}) as exec:
        exec.register(cli_tool("sh:env", ["/usr/bin/env"], env={"TOKEN": SecretRef("CRM_TOKEN")}))
        with pytest.raises(ToolFailed, match=r"no secret 'CRM_TOKEN'; pass it in secrets="):
            await exec.run_tool("sh:env")


async def test_a_database_and_its_health_check_may_ask(postgres: Postgres) -> None:
    """Drivers connect in corners of their own: the reference is followed there too."""
    head, _, rest = postgres.url.partition("@")
    user, _, password = head.rpartition(":")
    database = SqlDatabase(f"{user}@{rest}", password=SecretRef("DB"), tls="off")
    async with AsyncExec(secrets={"DB": password}) as exec:
        exec.register(database.query_tool("db:query"))
        await exec.check_tool("db:query")
        await database.aclose()
        answer = await exec.run_tool("db:query", {"statement": f"SELECT '{password}' AS p, 1 AS n"})
        assert answer["rows"] == [{"p": "[secret DB]", "n": 1}]


async def test_an_mcp_server_is_started_with_secrets(tmp_path: Path) -> None:
    argv = [sys.executable, str(ROOT / "tests" / "mcp_server.py"), "stdio", str(tmp_path)]
    server = StdioServer(argv, env={"PYTHONPATH": str(ROOT), "TOKEN": SecretRef("T")})
    async with AsyncExec(secrets={"T": "s3cret-token"}) as exec:
        await exec.connect(McpSource("test", server))
        assert await exec.run_tool("test:echo", {"text": "it is s3cret-token"}) == "it is [secret T]"
        assert await exec.check_sources() == {"test": ""}


class Broken:
    """A provider that cannot be closed, and says why."""

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        return None

    async def health(self) -> None:
        return

    async def aclose(self) -> None:
        raise OSError("s3cret-token")


async def test_our_logs_have_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with AsyncExec(secrets={"T": "s3cret-token"}) as exec:
            exec.register(Tool(id=ToolId("broken"), provider=Broken(), input_schema={"type": "object"}))
    assert "OSError: [secret T]" in caplog.text
    assert "s3cret-token" not in caplog.text.replace('raise OSError("s3cret-token")', "")


async def test_the_code_of_an_execution_is_recorded_without() -> None:
    journal = MemoryJournal()
    async with AsyncExec(secrets={"T": "s3cret-token"}, journal=journal) as exec:
        result = await exec.execute_code("return 's3cret-token'[:3]")
        assert result.value == "s3c"
        assert "s3cret-token" not in repr(await journal.records(result.execution_id))
