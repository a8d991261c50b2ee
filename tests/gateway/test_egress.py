"""Where tools may connect to: what is listed, and nothing in disguise."""

import contextlib
import ipaddress
import socket
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EgressDenied, InvalidRequest, ToolUnavailable
from gateway.policies.egress import NOT_PUBLIC, Egress, not_public, origin

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.216.34"


def leading_to(*addresses: str, allow: Iterable[str] = ("https://api.example.com",)) -> Egress:
    async def resolve(_host: str, _port: int) -> Iterable[str]:
        return addresses

    return Egress(tuple(allow), resolve)


def permits(egress: Egress, scheme: str, host: str, port: int) -> bool:
    try:
        egress.check(scheme, host, port)
    except EgressDenied:
        return False
    return True


def test_nothing_is_allowed_by_default() -> None:
    for host in ("api.example.com", PUBLIC, "127.0.0.1", "localhost", "::1"):
        assert not permits(Egress(), "https", host, 443)


@pytest.mark.parametrize(
    ("rule", "scheme", "host", "port", "allowed"),
    [
        ("https://api.example.com", "https", "api.example.com", 443, True),
        ("https://api.example.com", "https", "API.Example.COM.", 443, True),
        ("https://api.example.com", "http", "api.example.com", 443, False),
        ("https://api.example.com", "https", "api.example.com", 8443, False),
        ("https://api.example.com", "https", "api.example.com.evil.net", 443, False),
        ("https://api.example.com", "https", "evilapi.example.com", 443, False),
        ("https://api.example.com", "https", "api-example.com", 443, False),
        ("api.example.com", "http", "api.example.com", 8080, True),
        ("api.example.com:8080", "https", "api.example.com", 8080, True),
        ("api.example.com:8080", "https", "api.example.com", 443, False),
        ("*.example.com:443", "https", "a.b.example.com", 443, True),
        ("*.example.com:443", "https", "example.com", 443, False),
        ("*.example.com:443", "https", "badexample.com", 443, False),
        ("https://*", "https", "whatever.net", 443, True),
        ("https://*", "https", PUBLIC, 443, True),
        ("https://*", "https", "10.0.0.1", 443, False),
        ("https://*", "http", "whatever.net", 80, False),
        (PUBLIC, "https", PUBLIC, 443, True),
        (PUBLIC, "https", "93.184.216.35", 443, False),
        ("10.0.0.0/8", "http", "10.200.0.1", 9, True),
        ("10.0.0.0/8", "http", "11.0.0.1", 9, False),
        ("http://10.0.0.0/8:8080", "http", "10.0.0.1", 8080, True),
        ("http://10.0.0.0/8:8080", "http", "10.0.0.1", 80, False),
        ("10.0.0.0/8", "http", "::ffff:10.0.0.1", 80, True),
        ("[::1]:8080", "http", "::1", 8080, True),
        ("[::1]:8080", "http", "::1", 80, False),
        ("fd00::/8", "http", "fd00::5", 80, True),
        ("postgresql://db.example.com", "postgresql", "db.example.com", 5432, True),
        ("https://bücher.example", "https", "xn--bcher-kva.example", 443, True),
        ("https://xn--bcher-kva.example", "https", "Bücher.example", 443, True),
        ("https://straße.example", "https", "strasse.example", 443, False),
    ],
)
def test_rules(rule: str, scheme: str, host: str, port: int, allowed: bool) -> None:
    assert permits(Egress((rule,)), scheme, host, port) is allowed


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "https://",
        "a b",
        "https://a.com/path",
        "10.0.0.1/8",
        "exa*mple.com",
        "a.com:0",
        "a.com:70000",
        "ftp://a.com",
        "*.",
        "a..b",
        "127.1",
        "0x7f.1",
        "https://user@a.com",
        "a.com\n",
        "*.10.0.0.1",
        "[::1",
        "-a.com",
        "a" * 64,
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(rule: str) -> None:
    with pytest.raises(InvalidRequest, match="egress rule"):
        Egress((rule,))


@given(st.text(max_size=30) | st.from_regex(r"([a-z]{1,6}://)?[a-z0-9.*:/\[\]-]{1,20}(:\d{1,6})?", fullmatch=True))
def test_no_rule_host_or_url_breaks_anything(text: str) -> None:
    with contextlib.suppress(InvalidRequest, EgressDenied):
        Egress((text,)).check("https", "api.example.com", 443)
    with contextlib.suppress(EgressDenied):
        Egress(("*",)).check("https", text, 443)
    with contextlib.suppress(InvalidRequest):
        Egress().with_url(text)


def test_one_text_is_no_list_of_rules() -> None:
    with pytest.raises(InvalidRequest, match="list of rules"):
        Egress("api.example.com")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "198.18.0.1",
        "240.0.0.1",
        "192.0.2.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "3fff::1",
    ],
)
async def test_what_is_not_public_is_refused_by_name_and_as_written(address: str) -> None:
    with pytest.raises(EgressDenied, match="not public"):
        await leading_to(address).addresses("https", "api.example.com", 443)
    with pytest.raises(EgressDenied, match="not public"):
        Egress(("*",)).check("https", address, 443)


@pytest.mark.parametrize(
    "address", [PUBLIC, "2606:2800:220:1::1", "64:ff9b::5db8:d822", "2002:5db8:d822::1", "8.8.8.8"]
)
async def test_what_is_public_is_not_mistaken_for_it(address: str) -> None:
    assert await leading_to(address).addresses("https", "api.example.com", 443) == (address,)


@given(st.ip_addresses())
def test_public_addresses_are_those_that_python_takes_for_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global and address not in ipaddress.ip_network("2002::/16"):
        assert not_public(address) is not None


@given(st.sampled_from([network for network, _ in NOT_PUBLIC if network.version == 4]), st.data())
def test_no_disguise_makes_an_address_public(network: ipaddress.IPv4Network, data: st.DataObject) -> None:
    last = int(network.broadcast_address)
    number = data.draw(st.integers(int(network.network_address), last))
    disguises = [0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80, number]
    for disguise in disguises:
        assert not_public(ipaddress.IPv6Address(disguise)) is not None


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "1"])
async def test_numbers_in_unusual_forms_are_no_hosts(host: str) -> None:
    with pytest.raises(EgressDenied):
        await Egress(("*", "127.0.0.0/8")).addresses("http", host, 80)


@pytest.mark.parametrize(
    "host", ["", ".", "a..b", "a b", "a\r\nb", "a/b", "a@b", "a:80", "\0", "\uff11\uff12\uff17.0.0.1", "ﬀ…", "*"]
)
def test_what_is_no_host_name_is_refused(host: str) -> None:
    assert not permits(Egress(("*",)), "http", host, 80)


async def test_names_lead_to_listed_addresses_only() -> None:
    allow = ("https://api.example.com", "10.0.0.0/8")
    assert await leading_to("10.0.0.7", allow=allow).addresses("https", "api.example.com", 443) == ("10.0.0.7",)
    with pytest.raises(EgressDenied, match=r"192\.168\.0\.1"):
        await leading_to("192.168.0.1", allow=allow).addresses("https", "api.example.com", 443)
    with pytest.raises(EgressDenied, match="not among the hosts"):  # a listed address does not allow every name for it
        await leading_to("10.0.0.7", allow=allow).addresses("https", "other.example.com", 443)


async def test_of_several_addresses_the_permitted_ones_are_left_once_and_in_order() -> None:
    egress = leading_to("10.0.0.1", PUBLIC, "2606:2800::1", PUBLIC, "::1")
    assert await egress.addresses("https", "api.example.com", 443) == (PUBLIC, "2606:2800::1")


async def test_a_refused_name_is_not_even_looked_up() -> None:
    asked = []

    async def resolve(host: str, _port: int) -> Iterable[str]:
        asked.append(host)
        return [PUBLIC]

    egress = Egress(("api.example.com",), resolve)
    with pytest.raises(EgressDenied):
        await egress.addresses("https", "c2VjcmV0.evil.net", 443)
    assert asked == []
    await egress.addresses("https", "api.example.com.", 443)
    assert asked == ["api.example.com"]


async def test_a_name_that_cannot_be_resolved_may_work_later() -> None:
    async def resolve(_host: str, _port: int) -> Iterable[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    with pytest.raises(ToolUnavailable, match="cannot be resolved"):
        await Egress(("a.example",), resolve).addresses("http", "a.example", 80)
    with pytest.raises(ToolUnavailable, match="no address"):
        await leading_to().addresses("https", "api.example.com", 443)


async def test_the_operators_own_url_is_allowed_as_written() -> None:
    egress = Egress().with_url("http://127.0.0.1:8080/v1")
    assert await egress.addresses("http", "127.0.0.1", 8080) == ("127.0.0.1",)
    assert not permits(egress, "http", "127.0.0.1", 8081)
    assert not permits(egress, "http", "127.0.0.2", 8080)
    assert not permits(egress, "https", "127.0.0.1", 8080)
    assert permits(Egress().with_url("http://[::1]:8080"), "http", "::1", 8080)
    assert permits(Egress().with_url("https://api.example.com"), "https", "api.example.com", 443)


async def test_localhost_is_loopback_and_nothing_else() -> None:
    egress = Egress().with_url("http://localhost:8080")
    assert set(await egress.addresses("http", "localhost", 8080)) <= {"127.0.0.1", "::1"}
    moved = Egress(resolve=leading_to("10.0.0.1").resolve).with_url("http://localhost:8080")
    with pytest.raises(EgressDenied):
        await moved.addresses("http", "localhost", 8080)


async def test_the_operators_own_name_must_still_not_lead_inside() -> None:
    egress = Egress(resolve=leading_to("169.254.169.254").resolve).with_url("https://api.example.com")
    with pytest.raises(EgressDenied, match="metadata"):
        await egress.addresses("https", "api.example.com", 443)


@pytest.mark.parametrize("url", ["", "api.example.com", "https://", "https://a:b/", "gopher://x", "http://[::1", "//a"])
def test_a_url_without_an_origin_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="URL"):
        origin(url)
