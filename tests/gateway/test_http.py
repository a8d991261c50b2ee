"""HTTP tools against a real server: results, refusals, secrets, redirects, connections."""

import asyncio
import base64
import datetime as dt
import email.utils
import gc
import gzip
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from gateway.context import ToolContext
from gateway.errors import (
    EgressDenied,
    InvalidInput,
    InvalidRequest,
    InvalidToolId,
    ToolFailed,
    ToolTimeout,
    ToolUnavailable,
)
from gateway.policies.egress import Egress
from gateway.providers.http import ApiKey, Basic, Bearer, Form, HttpApi, Styled, Text
from gateway.providers.http.response import retry_after_seconds
from tests.gateway.http_server import Seen, Server, always, call, echo, response, serving, silence

pytestmark = pytest.mark.anyio

SECRET = "sesame-open-7"


@pytest.fixture
async def echoing() -> AsyncIterator[Server]:
    async with serving(echo) as server:
        yield server


async def answered(data: bytes, method: str = "GET", *, api: dict[str, Any] | None = None, **more: Any) -> Any:
    """What a tool gives for this response."""
    async with serving(always(data)) as server:
        client = HttpApi(base_url=server.url, **(api or {}))
        try:
            return await call(client.tool("t", method, "/x", **more))
        finally:
            await client.aclose()


# What is sent


async def test_a_call_is_one_request_with_everything_in_its_place(echoing: Server) -> None:
    api = HttpApi(base_url=f"{echoing.url}/v1/", headers={"X-Client": "agent"})
    tool = api.tool(
        "crm:update",
        "PUT",
        "/users/{id}",
        query={"notify": "{notify}"},
        headers={"X-Trace": "{trace}"},
        cookies={"lang": "{lang}"},
        body={"name": "{name}", "tags": "{tags}"},
    )
    arguments = {"id": "a", "notify": ["x", "y"], "trace": "t1", "lang": "de", "name": "Ann", "tags": ["t"]}
    said = await call(tool, arguments)
    await api.aclose()
    assert (said["method"], said["target"]) == ("PUT", "/v1/users/a?notify=x&notify=y")
    assert said["body"] == '{"name":"Ann","tags":["t"]}'
    headers = said["headers"]
    assert headers["X-Client"] == "agent"
    assert headers["X-Trace"] == "t1"
    assert headers["Cookie"] == "lang=de"
    assert headers["Content-Type"] == "application/json"
    assert "authorization" not in {name.lower() for name in headers}


async def test_arguments_that_no_template_names_find_their_place(echoing: Server) -> None:
    api = HttpApi(base_url=echoing.url)
    schema = {"type": "object", "properties": {"id": {"type": "string"}, "a": {}, "b": {"default": 2}}}
    got = await call(api.tool("g", "GET", "/u/{id}", input_schema=schema), {"id": "1", "a": [1, 2]})
    assert (got["target"], got["body"]) == ("/u/1?a=1&a=2&b=2", "")
    posted = await call(api.tool("p", "POST", "/u/{id}", input_schema=schema), {"id": "1", "a": {"x": None}})
    assert (posted["target"], posted["body"]) == ("/u/1", '{"a":{"x":null},"b":2}')
    deleted = await call(api.tool("d", "DELETE", "/u/{id}", input_schema=schema), {"id": "1"})
    assert deleted["target"] == "/u/1?b=2"
    await api.aclose()


async def test_bodies_of_other_kinds(echoing: Server) -> None:
    api = HttpApi(base_url=echoing.url)
    form = await call(api.tool("f", "POST", "/", body=Form({"a": "{a}"})), {"a": "1&b=2"})
    assert (form["body"], form["headers"]["Content-Type"]) == ("a=1%26b%3D2", "application/x-www-form-urlencoded")
    text = await call(api.tool("t", "POST", "/", body=Text("<i>{i}</i>", "application/xml")), {"i": "ü"})
    assert (text["body"], text["headers"]["Content-Type"]) == ("<i>ü</i>", "application/xml")
    none = await call(api.tool("n", "POST", "/"), {})
    assert none["body"] == ""
    await api.aclose()


async def test_undeclared_arguments_are_sent_nowhere() -> None:
    api = HttpApi(base_url="http://127.0.0.1:1")
    for schema in (None, {"type": "object", "properties": {"id": {}}}):
        with pytest.raises(InvalidInput, match="admin"):
            await call(api.tool("t", "GET", "/{id}", input_schema=schema), {"id": "1", "admin": "yes"})
    with pytest.raises(InvalidInput, match="id"):
        await call(api.tool("t", "GET", "/{id}"), {})


async def test_what_the_method_says_can_be_overruled() -> None:
    api = HttpApi(base_url="http://127.0.0.1:1")
    said = {}
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
        tool = api.tool("t", method, "/")
        said[method] = (tool.read_only, tool.idempotent, tool.destructive)
    assert said["GET"] == said["HEAD"] == said["OPTIONS"] == (True, True, None)
    assert said["POST"] == said["PATCH"] == (False, False, None)
    assert said["PUT"] == (False, True, None)
    assert said["DELETE"] == (False, True, True)
    search = api.tool("s", "POST", "/", read_only=True, idempotent=True, tags=("Find",), roles=frozenset({"sdr"}))
    assert (search.read_only, search.idempotent, search.open_world, search.tags) == (True, True, True, ("find",))


# What comes back


@pytest.mark.parametrize(
    ("body", "content_type", "result"),
    [
        ('{"a": [1, null]}', "application/json", {"a": [1, None]}),
        ('{"a": 1}', "application/problem+json; charset=utf-8", {"a": 1}),
        ("null", "application/json", None),
        ("", "application/json", None),
        ('{"a": 1}', "text/plain", '{"a": 1}'),
        ("ä".encode("latin-1"), "text/plain; charset=ISO-8859-1", "ä"),
        ("ä", 'text/html; charset="UTF-8"', "ä"),
        ("plain", "", "plain"),
        ("<a/>", "image/svg+xml", "<a/>"),
        (b"\x89PNG", "image/png", {"base64": base64.b64encode(b"\x89PNG").decode(), "media_type": "image/png"}),
        (b"abc", "application/octet-stream", {"base64": "YWJj", "media_type": "application/octet-stream"}),
        (b"\xff\xfe\xff", "text/plain", {"base64": "//7/", "media_type": "text/plain"}),
        (b"a\0b", "text/plain", {"base64": "YQBi", "media_type": "text/plain"}),
        (b"+AGE-", "text/plain; charset=utf-7", {"base64": "K0FHRS0=", "media_type": "text/plain"}),
        (b"x", "text/plain; charset=no-such", {"base64": "eA==", "media_type": "text/plain"}),
        (b"\xff", "", {"base64": "/w==", "media_type": ""}),
    ],
)
async def test_a_body_is_what_the_server_says(body: Any, content_type: str, result: Any) -> None:
    assert await answered(response(body, content_type=content_type)) == result


async def test_the_whole_response_on_request() -> None:
    data = response('"x"', ETag="7", Location="/users/7", Set_Cookie="sid=1")
    found = await answered(data, "POST", response_headers=["ETag", "Location", "X-Missing"])
    assert found == {"status": 200, "headers": {"etag": "7", "location": "/users/7"}, "body": "x"}


async def test_no_content_and_head() -> None:
    assert await answered(b"HTTP/1.1 204 No Content\r\n\r\n", "DELETE") is None
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\nContent-Type: image/png\r\n\r\n"
    found = await answered(head, "HEAD")
    assert found == {"status": 200, "headers": {"content-type": "image/png"}, "body": None}


async def test_compressed_answers_are_read() -> None:
    assert await answered(response(gzip.compress(b"[1]"), Content_Encoding="gzip")) == [1]


# Refusals


@pytest.mark.parametrize(
    "status", ["408 Request Timeout", "425 Too Early", "429 Too Many Requests", "500 X", "599 Odd"]
)
async def test_what_may_work_later_is_unavailable(status: str) -> None:
    with pytest.raises(ToolUnavailable, match=status[:3]) as caught:
        await answered(response('{"error": "busy"}', status, Retry_After="7"))
    details = {"status": int(status[:3]), "body": {"error": "busy"}, "retry_after_seconds": 7.0}
    assert caught.value.details == details
    assert caught.value.retryable


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "409 X", "424 X"])
async def test_other_refusals_are_final_and_keep_the_body(status: str) -> None:
    with pytest.raises(ToolFailed, match=f"GET /x at 127.0.0.1:.* answered {status[:3]}") as caught:
        await answered(response('{"error": "no such user"}', status, Retry_After="7"))
    assert caught.value.details == {"status": int(status[:3]), "body": {"error": "no such user"}}
    assert not caught.value.retryable


async def test_the_kept_body_is_bounded_and_printable() -> None:
    with pytest.raises(ToolFailed) as caught:
        await answered(response(b"\xff" + b"x" * 3_000_000, "404 Not Found", "text/html"))
    assert len(caught.value.details["body"]) <= 8192
    with pytest.raises(ToolFailed) as caught:
        await answered(response('{"broken', "400 Bad Request"))
    assert caught.value.details["body"] == '{"broken'


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90)
    assert retry_after_seconds("120") == 120.0
    assert 80 < (retry_after_seconds(email.utils.format_datetime(soon, usegmt=True)) or 0) <= 90
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    for nonsense in (None, "", "soon", "-1", "1.5", "1e99", "9" * 400, "²", "Wed, 99 Foo 2015"):
        assert retry_after_seconds(nonsense) is None


# Secrets


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (Bearer(SECRET), "Authorization", f"Bearer {SECRET}"),
        (Bearer(lambda: SECRET), "Authorization", f"Bearer {SECRET}"),
        (Basic("ann", SECRET), "Authorization", "Basic " + base64.b64encode(f"ann:{SECRET}".encode()).decode()),
        (ApiKey("X-Key", SECRET), "X-Key", SECRET),
        (ApiKey("sid", SECRET, "cookie"), "Cookie", f"lang=de; sid={SECRET}"),
    ],
)
async def test_credentials_are_sent_and_never_shown(
    echoing: Server, auth: Any, header: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api = HttpApi(base_url=echoing.url, auth=auth)
    said = await call(api.tool("t", "GET", "/x", cookies={"lang": "{lang}"}), {"lang": "de"})
    await api.aclose()
    assert echoing.seen[0].header(header) == value
    assert "***" in said["headers"][header]
    for shown in (str(said), caplog.text, repr(api), repr(auth)):
        assert SECRET not in shown
        assert value not in shown


async def test_a_key_in_the_query_is_not_logged_or_echoed(echoing: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api = HttpApi(base_url=echoing.url, auth=ApiKey("key", SECRET + "&", "query"))
    said = [await call(api.tool("t", "GET", path, query={"q": "{q}"}), {"q": "1"}) for path in ("/x", "/x?a=1")]
    await api.aclose()
    assert [seen.target for seen in echoing.seen] == [f"/x?q=1&key={SECRET}%26", f"/x?a=1&q=1&key={SECRET}%26"]
    assert SECRET not in str(said)
    assert SECRET not in caplog.text


async def test_secrets_are_read_at_each_call(echoing: Server) -> None:
    tokens = iter(["first-token", "second-token"])
    api = HttpApi(base_url=echoing.url, headers={"X-Token": lambda: next(tokens)})
    tool = api.tool("t", "GET", "/")
    said = [await call(tool), await call(tool)]
    await api.aclose()
    assert [seen.header("X-Token") for seen in echoing.seen] == ["first-token", "second-token"]
    assert "-token" not in str(said)


@pytest.mark.parametrize("host", ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example", "Api.Example.com."])
async def test_every_spelling_of_the_apis_host_is_its_own(echoing: Server, host: str) -> None:
    async def here(_host: str, _port: int) -> Iterable[str]:
        return ["127.0.0.1"]

    egress = Egress(("127.0.0.1",), here)
    api = HttpApi(base_url=f"http://{host}:{echoing.port}", egress=egress, auth=Bearer(SECRET))
    await call(api.tool("t", "GET", "/"))
    await api.aclose()
    assert echoing.seen[0].header("Authorization") == f"Bearer {SECRET}"


async def test_arguments_cannot_replace_the_hosts_own_headers(echoing: Server) -> None:
    api = HttpApi(base_url=echoing.url, auth=Bearer(SECRET), headers={"X-Tenant": "mine"})
    tool = api.tool("t", "GET", "/", headers={"authorization": "{a}", "x-tenant": "{a}"})
    await call(tool, {"a": "other"})
    await api.aclose()
    assert echoing.seen[0].header("Authorization") == f"Bearer {SECRET}"
    assert echoing.seen[0].header("X-Tenant") == "mine"


@pytest.mark.parametrize("secret", ["", "a\r\nX: y", "ä", " !a"])
async def test_a_secret_that_cannot_be_sent_is_not_shown_either(echoing: Server, secret: str) -> None:
    api = HttpApi(base_url=echoing.url, auth=ApiKey("X-Key", secret))
    with pytest.raises(ToolFailed, match="header X-Key") as caught:
        await call(api.tool("t", "GET", "/"))
    assert not secret or secret not in str(caught.value.to_json())
    assert echoing.seen == []


async def test_refusals_do_not_show_secrets_that_were_echoed() -> None:
    with pytest.raises(ToolFailed) as caught:
        await answered(response(f"bad token {SECRET}", "403 Forbidden", "text/plain"), api={"auth": Bearer(SECRET)})
    assert caught.value.details["body"] == "bad token ***"


async def test_cookies_of_one_caller_do_not_reach_the_next() -> None:
    async with serving(always(response("1", Set_Cookie="sid=ann; Path=/"))) as server:
        api = HttpApi(base_url=server.url)
        tool = api.tool("t", "GET", "/")
        await call(tool)
        await call(tool)
        await api.aclose()
    assert [seen.header("Cookie") for seen in server.seen] == [None, None]


async def test_the_environment_is_not_asked(echoing: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    api = HttpApi(base_url=echoing.url)
    assert (await call(api.tool("t", "GET", "/")))["method"] == "GET"
    await api.aclose()


# Redirects and egress


def redirect(to: str, status: str = "302 Found") -> bytes:
    return response('"see there"', status, Location=to)


async def test_redirects_are_not_followed_unasked() -> None:
    with pytest.raises(ToolFailed, match=r"302.*redirect") as caught:
        await answered(redirect("http://10.0.0.1/secret"))
    assert caught.value.details["location"] == "http://10.0.0.1/secret"


async def test_redirects_within_the_api_keep_method_and_credentials() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await echo(seen, writer) if seen.target != "/a" else writer.write(redirect("/b", "307 Temporary Redirect"))

    async with serving(answer) as server:
        api = HttpApi(base_url=server.url, max_redirects=1, max_connections=1, auth=Bearer(SECRET))
        said = await call(api.tool("t", "POST", "/a", body={"x": "{x}"}), {"x": 1})
        await api.aclose()
    assert (said["method"], said["target"], said["body"]) == ("POST", "/b", '{"x":1}')
    assert [seen.header("Authorization") for seen in server.seen] == [f"Bearer {SECRET}"] * 2


async def test_credentials_do_not_follow_a_redirect_to_another_origin(echoing: Server) -> None:
    async with serving(always(redirect(f"{echoing.url}/there", "307 Temporary Redirect"))) as server:
        egress = Egress((f"http://127.0.0.1:{echoing.port}",))
        api = HttpApi(
            base_url=server.url,
            max_redirects=1,
            egress=egress,
            auth=ApiKey("key", SECRET, "query"),
            headers={"X-Tenant": "mine", "Authorization": f"Bearer {SECRET}"},
        )
        tool = api.tool("t", "GET", "/here", headers={"X-Arg": "{a}"}, cookies={"sid": "{a}"})
        await call(tool, {"a": "1"})
        await api.aclose()
    assert SECRET in str(server.seen)
    assert SECRET not in str(echoing.seen)
    assert echoing.seen[0].target == "/there"
    names = {name.lower() for name, _ in echoing.seen[0].headers}
    assert names == {"host", "accept", "accept-encoding", "user-agent"}


@pytest.mark.parametrize("to", ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://localhost:1/"])
@pytest.mark.parametrize("status", ["301 X", "302 X", "303 X", "307 X", "308 X"])
async def test_every_hop_of_a_redirect_is_checked(to: str, status: str) -> None:
    with pytest.raises(EgressDenied):
        await answered(redirect(to, status), api={"max_redirects": 5})


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "gopher://127.0.0.1/", "//10.0.0.1/x", "http://0x7f.1/", "https:/"]
)
async def test_redirects_in_disguise_are_refused(to: str) -> None:
    with pytest.raises((EgressDenied, ToolFailed)):
        await answered(redirect(to), api={"max_redirects": 5, "egress": Egress(("*",))})


async def test_only_http_is_spoken() -> None:
    with pytest.raises(EgressDenied, match="only http and https"):
        await answered(redirect("gopher://files.example.com/"), api={"max_redirects": 1, "egress": Egress(("*",))})


async def test_redirects_end() -> None:
    async with serving(always(redirect("/again"))) as server:
        api = HttpApi(base_url=server.url, max_redirects=3)
        with pytest.raises(ToolFailed, match="no further redirect"):
            await call(api.tool("t", "GET", "/x"))
        await api.aclose()
    assert len(server.seen) == 4


async def test_a_name_that_leads_inside_is_not_connected_to(echoing: Server) -> None:
    async def inside(_host: str, _port: int) -> Iterable[str]:
        return ["127.0.0.1"]

    api = HttpApi(base_url=f"http://api.example.com:{echoing.port}", egress=Egress(resolve=inside))
    with pytest.raises(EgressDenied, match="loopback"):
        await call(api.tool("t", "GET", "/"))
    with pytest.raises(EgressDenied):
        await api.health()
    await api.aclose()
    assert echoing.connections == 0


async def test_a_name_that_is_rebound_does_not_move_the_connection(echoing: Server) -> None:
    asked: list[str] = []

    async def rebinding(host: str, _port: int) -> Iterable[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2", "10.0.0.1"]

    egress = Egress(("127.0.0.1",), rebinding)
    api = HttpApi(base_url=f"http://api.example.com:{echoing.port}", egress=egress)
    tool = api.tool("t", "GET", "/")
    said = await call(tool)
    assert said["headers"]["Host"] == f"api.example.com:{echoing.port}"
    await call(tool)  # the connection that was checked is still there
    assert asked == ["api.example.com"]
    await api.aclose()
    with pytest.raises(EgressDenied):
        await call(tool)
    assert echoing.connections == 1


async def test_another_address_is_tried_when_one_does_not_answer(echoing: Server) -> None:
    async def two(_host: str, _port: int) -> Iterable[str]:
        return ["127.0.0.9", "127.0.0.1"]

    egress = Egress(("127.0.0.0/8",), two)
    api = HttpApi(base_url=f"http://api.example.com:{echoing.port}", egress=egress)
    assert (await call(api.tool("t", "GET", "/")))["method"] == "GET"
    await api.aclose()


# Connections


async def test_calls_share_connections_until_the_api_is_closed(echoing: Server) -> None:
    api = HttpApi(base_url=echoing.url)
    one, two = api.tool("a", "GET", "/a"), api.tool("b", "POST", "/b")
    for tool in (one, two, one):
        await call(tool)
    assert (echoing.connections, echoing.open) == (1, 1)
    await asyncio.gather(*(call(one) for _ in range(5)))
    await one.provider.aclose()
    await two.provider.aclose()
    await api.aclose()
    await asyncio.sleep(0.05)
    assert echoing.open == 0
    await call(one)  # and opens again
    await api.aclose()


async def test_a_busy_pool_is_a_refusal_not_a_wait_for_ever() -> None:
    async with serving(silence) as server:
        api = HttpApi(base_url=server.url, max_connections=1)
        holding = asyncio.create_task(call(api.tool("slow", "GET", "/")))
        await server.asked.wait()
        quick = api.tool("quick", "GET", "/", timeout_seconds=0.2)
        with pytest.raises(ToolUnavailable, match="busy"):
            await quick.provider.call({}, ToolContext())
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await api.aclose()


async def test_a_timeout_hangs_up() -> None:
    async with serving(silence) as server:
        api = HttpApi(base_url=server.url)
        with pytest.raises(ToolTimeout):
            await call(api.tool("t", "GET", "/", timeout_seconds=0.2))
        async with asyncio.timeout(5):
            await server.hung_up.wait()
        await api.aclose()


async def test_cancellation_hangs_up_and_the_api_still_works(echoing: Server) -> None:
    started = asyncio.Event()

    async def slow_once(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if not started.is_set():
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            started.set()
            await asyncio.sleep(60)
        await echo(seen, writer)

    async with serving(slow_once) as server:
        api = HttpApi(base_url=server.url, max_connections=1)
        tool = api.tool("t", "GET", "/")
        working = asyncio.create_task(call(tool))
        await started.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        async with asyncio.timeout(5):
            await server.hung_up.wait()
        assert (await call(tool))["method"] == "GET"
        await api.aclose()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_an_api_that_was_not_closed_works_in_the_next_event_loop(echoing: Server) -> None:
    api = HttpApi(base_url=echoing.url)
    tool = api.tool("t", "GET", "/")
    for _ in range(2):
        said = await asyncio.to_thread(asyncio.run, call(tool))
        assert said["method"] == "GET"
    await asyncio.to_thread(asyncio.run, api.aclose())
    del api, tool
    gc.collect()


# Health


async def test_health_connects_or_asks(echoing: Server) -> None:
    api = HttpApi(base_url=echoing.url)
    tool = api.tool("t", "GET", "/")
    await tool.provider.health()
    assert (echoing.connections, echoing.seen) == (1, [])
    asking = HttpApi(base_url=f"{echoing.url}/v1", health_path="/health", auth=Bearer(SECRET))
    await asking.health()
    assert (echoing.seen[0].method, echoing.seen[0].target) == ("GET", "/v1/health")
    await asking.aclose()
    with pytest.raises(ToolUnavailable):
        await HttpApi(base_url="http://127.0.0.1:1").health()
    async with serving(always(response("", "503 Service Unavailable"))) as server:
        ill = HttpApi(base_url=server.url, health_path="/health")
        with pytest.raises(ToolUnavailable, match="503"):
            await ill.health()
        await ill.aclose()


async def test_health_does_not_wait_for_ever() -> None:
    async def dripping(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async with serving(dripping) as server:
        api = HttpApi(base_url=server.url, health_path="/", connect_timeout_seconds=0.3)
        with pytest.raises(ToolUnavailable, match=r"within 0\.3 s"):
            await api.health()
        await api.aclose()


# Construction


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "ftp://127.0.0.1"},
        {"base_url": "127.0.0.1:80"},
        {"base_url": "http://ann:pw@127.0.0.1"},
        {"base_url": "http://127.0.0.1?x=1"},
        {"base_url": "http://127.0.0.1#x"},
        {"connect_timeout_seconds": 0},
        {"connect_timeout_seconds": float("inf")},
        {"max_response_bytes": 0},
        {"max_connections": 0},
        {"max_redirects": -1},
        {"health_path": "health"},
        {"headers": {"Host": "x"}},
        {"headers": {"a b": "x"}},
    ],
)
def test_configuration_is_checked_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        HttpApi(**({"base_url": "http://127.0.0.1"} | wrong))
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("where", ["body", "", "Header"])
def test_an_api_key_goes_somewhere(where: Any) -> None:
    with pytest.raises(InvalidRequest, match="header, query or cookie"):
        ApiKey("k", SECRET, where)


@pytest.mark.parametrize(
    "more",
    [
        {"input_schema": {"properties": {"id": {}, "spare": {}}}, "query": {"q": "{id}"}},
        {"input_schema": {"properties": {}}},
        {"input_schema": {"properties": {"id": {}}, "additionalProperties": True}},
        {"query": {"q": Styled("x{y}", "comma")}},
        {"headers": {"Host": "{id}"}},
        {"timeout_seconds": 0.0},
    ],
)
def test_tools_are_checked_at_once(more: dict[str, Any]) -> None:
    api = HttpApi(base_url="http://127.0.0.1")
    with pytest.raises(InvalidRequest):
        api.tool("t", "GET", "/{id}", **more)
    with pytest.raises(InvalidToolId):
        api.tool("a:b:c:d", "GET", "/")


@pytest.mark.parametrize(
    ("missing", "use", "extra"),
    [
        ("httpx2", "from gateway.providers.http import HttpApi\nHttpApi(base_url='http://127.0.0.1')", "http"),
        (
            "yaml",
            "from gateway.providers.openapi import openapi_tools\nopenapi_tools('openapi: 3.1.0\\npaths: {}\\n', None)",
            "openapi",
        ),
    ],
)
def test_a_missing_library_names_what_to_install(missing: str, use: str, extra: str) -> None:
    code = f"import sys\nsys.modules[{missing!r}] = None\n{use}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'toolexec[{extra}]'" in done.stderr


def test_libraries_are_imported_on_use_only() -> None:
    code = (
        "import sys, gateway.providers.openapi\nassert not {'httpx2', 'httpcore2', 'yaml', 'idna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
