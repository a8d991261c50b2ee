"""From arguments to a request: a value never becomes a segment, a line or a key of its own."""

import json
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidInput, InvalidRequest
from gateway.providers.http.body import Binary, Body, Form, Json, Multipart, Text
from gateway.providers.http.request import Request, RequestTemplate
from gateway.providers.http.template import Styled, Template

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def fill(path: str = "/", arguments: dict[str, Any] | None = None, method: str = "GET", **more: Any) -> Request:
    parts = {"query": {}, "headers": {}, "cookies": {}, "body": None, "encoded_slashes": False} | more
    return RequestTemplate(method, path, **parts).fill(arguments or {})


@pytest.mark.parametrize(
    ("path", "arguments", "target"),
    [
        ("/users/{id}", {"id": "7"}, "/users/7"),
        ("/users/{id}", {"id": 7}, "/users/7"),
        ("/users/{id}", {"id": 1.5}, "/users/1.5"),
        ("/users/{id}", {"id": True}, "/users/true"),
        ("/users/{id}", {"id": "a b?x=1#f&%2F"}, "/users/a%20b%3Fx%3D1%23f%26%252F"),
        ("/users/{id}", {"id": "…"}, "/users/%E2%80%A6"),
        ("/users/{id}", {"id": "a;b:c@d"}, "/users/a%3Bb%3Ac%40d"),
        ("/users/{id}", {"id": ["1", "a,b"]}, "/users/1,a%2Cb"),
        ("/v{n}/x.{kind}", {"n": 2, "kind": "json"}, "/v2/x.json"),
        ("/a/{{b}}", {}, "/a/%7Bb%7D"),
        ("/ä b?type=user", {}, "/%C3%A4%20b?type=user"),
        ("/files/{+path}", {"path": "a/b c/d.txt"}, "/files/a/b%20c/d.txt"),
        ("/users/{id}", {"id": "..."}, "/users/..."),
        ("/users/{id}", {"id": "a..b"}, "/users/a..b"),
    ],
)
def test_paths(path: str, arguments: dict[str, Any], target: str) -> None:
    assert fill(path, arguments).target == target


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "a/b",
        "/",
        "../admin",
        "1/../../admin",
        "a\\b",
        "..\\x",
        "a\nb",
        "a\x00",
        "\x7f",
        None,
        [],
        {},
        ["a/b"],
        ["..", "/"],
        {"a": 1},
        [["a"]],
        [None],
    ],
)
def test_values_that_would_leave_their_segment_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        fill("/users/{id}/orders", {"id": value})


@pytest.mark.parametrize("value", ["", "/", "a//b", "/a", "a/", "..", "a/../b", "a/./b", "a\\..\\b", "a/\r"])
def test_values_of_many_segments_must_not_climb_either(value: str) -> None:
    with pytest.raises(InvalidInput):
        fill("/files/{+path}", {"path": value})


@pytest.mark.parametrize("path", ["/a/.{x}", "/a/{x}.", "/a/{x}{x}", "/{x}"])
def test_a_value_cannot_complete_a_dot_segment(path: str) -> None:
    with pytest.raises(InvalidInput):
        fill(path, {"x": "."})


def test_slashes_are_sent_encoded_where_the_server_is_known_to_take_them() -> None:
    assert fill("/projects/{id}", {"id": "group/app"}, encoded_slashes=True).target == "/projects/group%2Fapp"
    for value in ("../x", "a/..", "a//b", "a/./b", "a\\b"):
        with pytest.raises(InvalidInput):
            fill("/projects/{id}", {"id": value}, encoded_slashes=True)


@given(WORDS)
def test_a_value_stays_in_its_segment(text: str) -> None:
    try:
        target = fill("/users/{id}/orders", {"id": text}).target
    except InvalidInput:
        return
    assert target.startswith("/users/")
    assert target.endswith("/orders")
    assert target.count("/") == 3
    assert unquote(target.split("/")[2]) == text
    assert not set(target) & set("?#\\ ")
    assert target.isascii()


@given(WORDS, st.lists(WORDS), WORDS)
def test_values_stay_values_in_the_query(one: str, many: list[str], key: str) -> None:
    target = fill(query={"one": "{a}", key: "{b}", "mixed": "x:{a}"}, arguments={"a": one, "b": many}).target
    pairs = parse_qsl(urlsplit(target).query, keep_blank_values=True, strict_parsing=True)
    repeated = [(key, each) for each in many]
    expected = {"one": [("one", one)], key: repeated, "mixed": [("mixed", f"x:{one}")]}
    assert pairs == [pair for group in expected.values() for pair in group]


@given(st.dictionaries(st.sampled_from("abc"), WORDS | st.integers() | st.booleans()))
def test_an_object_in_the_query_has_its_own_keys_only(value: dict[str, Any]) -> None:
    target = fill(query={"f": Styled("{f}", "deep")}, arguments={"f": value}).target
    keys = [key for key, _ in parse_qsl(urlsplit(target).query, keep_blank_values=True)]
    assert keys == [f"f[{key}]" for key in value]


@pytest.mark.parametrize(
    ("style", "value", "query"),
    [
        ("repeat", [1, "a,b"], "f=1&f=a%2Cb"),
        ("repeat", [], ""),
        ("repeat", "x", "f=x"),
        ("comma", [1, "a,b"], "f=1,a%2Cb"),
        ("space", ["a", "b"], "f=a%20b"),
        ("pipe", ["a", "b"], "f=a%7Cb"),
        ("comma", [], ""),
        ("deep", {"a": 1, "b]": "&"}, "f[a]=1&f[b]]=%26"),
        ("spread", {"a": 1, "b": "x"}, "a=1&b=x"),
        ("json", {"a": [1]}, "f=%7B%22a%22%3A[1]%7D"),
        ("json", "x", "f=%22x%22"),
    ],
)
def test_styles_of_lists_and_objects(style: Any, value: Any, query: str) -> None:
    target = fill(query={"f": Styled("{v}", style)}, arguments={"v": value}).target
    assert target.partition("?")[2].replace("%5B", "[").replace("%5D", "]") == query


def test_an_object_cannot_take_the_key_of_another_argument() -> None:
    query = {"f": Styled("{f}", "spread"), "admin": "no"}
    assert fill(query=query, arguments={"f": {"a": 1}}).target == "/?a=1&admin=no"
    with pytest.raises(InvalidInput, match="admin"):
        fill(query=query, arguments={"f": {"admin": "yes"}})


@pytest.mark.parametrize("value", [{"a": 1}, [["a"]], [None], [{"a": 1}]])
def test_what_has_no_place_in_a_query_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="v must be text"):
        fill(query={"f": "{v}"}, arguments={"v": value})
    with pytest.raises(InvalidInput):
        fill(query={"f": "x{v}"}, arguments={"v": ["a"]})


def test_what_is_not_given_is_left_out_and_the_fixed_query_stays() -> None:
    query = {"a": "{a}", "b": "x{a}", "c": "{c}", "d": "fixed"}
    assert fill("/s?type=user&type=bot", {"c": None}, query=query).target == "/s?type=user&type=bot&d=fixed"


def test_headers_and_cookies() -> None:
    request = fill(
        headers={"X-Trace": "id-{t}", "X-List": "{l}", "X-Not": "{n}"},
        cookies={"sid": "{c}", "other": "{n}"},
        arguments={"t": 7, "l": ["a", "b"], "c": "a; b=c"},
    )
    assert request.headers == (("X-Trace", "id-7"), ("X-List", "a,b"), ("Cookie", "sid=a%3B%20b%3Dc"))


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", "a\nb", "a\0", "ä", "\x7f", "a\tb", {"a": 1}, [["x"]]])
def test_a_value_is_one_line_of_a_header(value: Any) -> None:
    with pytest.raises(InvalidInput):
        fill(headers={"X-Trace": "{t}"}, arguments={"t": value})


@given(WORDS)
def test_no_value_adds_a_header(text: str) -> None:
    try:
        headers = fill(headers={"X-T": "{t}"}, cookies={"c": "{t}"}, arguments={"t": text}).headers
    except InvalidInput:
        return
    for _, value in headers:
        assert value.isascii()
        assert value.isprintable()
    assert headers[-1][0] == "X-T" or headers[-1][1].count(";") == 0


def content(body: Body, **arguments: Any) -> bytes:
    found = body.encode(arguments)
    assert found is not None
    return found[1]


def test_json_bodies_keep_types_and_leave_out_what_is_not_given() -> None:
    body = Json({"a": "{a}", "deep": [{"b": "{b}"}, "{c}"], "text": "n={n}", "fixed": 1, "brace": "{{x}}"})
    assert sorted(body.names) == ["a", "b", "c", "n"]
    found = json.loads(content(body, a=[1, None], b=None, n=2))
    assert found == {"a": [1, None], "deep": [{"b": None}], "text": "n=2", "fixed": 1, "brace": "{x}"}
    assert json.loads(content(body)) == {"deep": [{}], "fixed": 1, "brace": "{x}"}
    assert Json("{all}").encode({}) is None
    assert content(Json("{all}"), all='a"b') == b'"a\\"b"'


def test_an_argument_is_never_read_as_a_template() -> None:
    assert json.loads(content(Json({"a": "{a}", "b": "x{a}"}), a="{b}", b="secret")) == {"a": "{b}", "b": "x{b}"}
    assert fill("/{a}", {"a": "{b}", "b": "secret"}).target == "/%7Bb%7D"


def test_forms_text_and_bytes() -> None:
    assert content(Form({"a": "{a}", "b": "{b}", "c": "{c}"}), a="x&y=1", b=["1", "2"]) == b"a=x%26y%3D1&b=1&b=2"
    assert Form({"a": "{a}"}).encode({}) is None
    assert Text("<id>{id}</id>", "application/xml").encode({"id": "ä"}) == ("application/xml", "<id>ä</id>".encode())
    assert Binary("data").encode({"data": "AP8="}) == ("application/octet-stream", b"\x00\xff")
    assert Binary("data").encode({}) is None
    for wrong in ("AP8", "AP-8=", "not base64!", "ä", ["AP8="]):
        with pytest.raises(InvalidInput, match="data"):
            Binary("data").encode({"data": wrong})


@given(WORDS)
def test_a_part_of_a_multipart_body_ends_where_its_value_ends(text: str) -> None:
    body = Multipart({"note": "{note}", "more": "{more}"}, {'f"\r\nX': "file"})
    kind, data = body.encode({"note": text, "more": {"a": [1]}, "file": "AP8="}) or ("", b"")
    boundary = kind.partition("boundary=")[2].encode()
    parts = data.split(b"--" + boundary)
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]] == [
        text.encode() + b"\r\n",
        b'{"a": [1]}\r\n',
        b"\x00\xff\r\n",
    ]
    assert b'name="f%22%0D%0AX"; filename="f%22%0D%0AX"\r\n' in parts[3]
    assert parts[-1] == b"--\r\n"


@pytest.mark.parametrize("text", ["{", "}", "{a", "{}", "{a:>10}", "{a!r}", "{a}}"])
def test_templates_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="template"):
        Template(text)


@pytest.mark.parametrize(
    "parts",
    [
        {"method": "get"},
        {"method": "TRACE"},
        {"method": "GET /x HTTP/1.1\r\nX: "},
        {"path": "users"},
        {"path": "/a/../b"},
        {"path": "/a#b"},
        {"path": "/a\r\nb"},
        {"path": "/a?x={x}"},
        {"headers": {"X:Y": "1"}},
        {"headers": {"": "1"}},
        {"headers": {"Host": "evil.net"}},
        {"headers": {"content-length": "0"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"Content-Type": "text/plain"}},
        {"headers": {"Proxy-Authorization": "x"}},
        {"cookies": {"a=b;c": "1"}},
        {"query": {"a": Styled("x{a}", "comma")}},
    ],
)
def test_requests_that_could_not_be_sent_are_refused_at_once(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        fill(**parts)
