"""Where tools may connect to: a list of what is allowed, and the addresses that a name must not lead to unlisted.

A name is resolved once, by us, and the connection goes to an address that was checked: a name that leads elsewhere a
moment later changes nothing.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlsplit

import anyio

from gateway.errors import EgressDenied, InvalidRequest, MissingExtra, ToolUnavailable

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

Resolve: TypeAlias = Callable[[str, int], Awaitable[Iterable[str]]]
"""The addresses of a name, for a port. Raises OSError when there are none."""

DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "mariadb": 3306,
    "mysql": 3306,
    "postgresql": 5432,
    "redis": 6379,
    "ws": 80,
    "wss": 443,
}

NOT_PUBLIC: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by carriers"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),
        ("169.254.0.0/16", "link-local, where clouds keep metadata"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),
    )
)
"""Addresses that are nobody's on the Internet, or that only the machine's own cloud answers."""

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_6TO4 = ipaddress.IPv6Network("2002::/16")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOOPBACK = ("127.0.0.1", "[::1]")
_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
_NUMBER = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)")
_RULE = re.compile(r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<host>.*?)(?P<port>:\d{1,5})?", re.IGNORECASE)


async def system_addresses(host: str, port: int) -> list[str]:
    """What the machine's resolver says, in its order; it runs in a thread."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


@dataclass(frozen=True, slots=True)
class Egress:
    """What may be connected to: nothing, except what `allow` lists.

    A rule is `[scheme://]host[:port]`. The host is a name, `*.example.com` for every name below one, `*` for every
    public host, an address, or a network such as `10.0.0.0/8`; an IPv6 address with a port is in brackets. A rule
    without a scheme is for every scheme; one with a scheme and no port is for the scheme's own port, one with neither
    for every port.

    Names lead to public addresses only. An address that is private, loopback, link-local, cloud metadata, multicast or
    reserved must be listed itself, as an address or a network, in whatever form a name or a number hides it.

    Raises InvalidRequest for a rule that cannot be read.
    """

    allow: tuple[str, ...] = ()
    resolve: Resolve = field(default=system_addresses, compare=False)
    _rules: tuple["_Rule", ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.allow, str):
            raise InvalidRequest(f"allow is a list of rules, not one text; pass ({self.allow!r},)")
        object.__setattr__(self, "allow", tuple(self.allow))
        object.__setattr__(self, "_rules", tuple(_Rule.parse(text) for text in self.allow))

    def with_url(self, url: str) -> "Egress":
        """Also allow the scheme, host and port of a URL that the operator wrote; `localhost` is loopback."""
        scheme, host, port = origin(url)
        hosts = [f"[{host}]" if ":" in host else host, *(_LOOPBACK if host == "localhost" else ())]
        return Egress((*self.allow, *(f"{scheme}://{each}:{port}" for each in hosts)), self.resolve)

    def check(self, scheme: str, host: str, port: int) -> None:
        """Raise EgressDenied unless a rule has this host. A name may still lead to where it must not."""
        name = normal_host(host)
        address = _address(name)
        if address is not None:
            self._check_address(scheme, name, port, address)
        elif _NUMBER.fullmatch(name):
            raise EgressDenied(name, "it is an address in an unusual form; write it as 192.0.2.1 or 2001:db8::1")
        elif not any(rule.has_name(scheme, name, port) for rule in self._rules):
            raise EgressDenied(f"{name}:{port}", "it is not among the hosts that are allowed")

    async def addresses(self, scheme: str, host: str, port: int) -> tuple[str, ...]:
        """The addresses of `host` that may be connected to, best first; connect to one of them, not to the name.

        Raises EgressDenied when there is none, ToolUnavailable when the name cannot be resolved now.
        """
        self.check(scheme, host, port)
        name = normal_host(host)
        if _address(name) is not None:
            return (name,)
        try:
            found = dict.fromkeys(await self.resolve(name, port))
        except OSError as exc:
            raise ToolUnavailable(name, "its name cannot be resolved") from exc
        return self._permitted(scheme, name, port, found)

    def _permitted(self, scheme: str, name: str, port: int, found: Iterable[str]) -> tuple[str, ...]:
        permitted, refused = [], None
        for text in found:
            address = _address(text)
            try:
                if address is not None:
                    self._check_address(scheme, name, port, address, named=True)
                    permitted.append(text)
            except EgressDenied as exc:
                refused = exc
        if not permitted:
            raise refused or ToolUnavailable(name, "its name leads to no address")
        return tuple(permitted)

    def _check_address(self, scheme: str, host: str, port: int, address: Address, *, named: bool = False) -> None:
        if any(rule.has_address(scheme, address, port) for rule in self._rules):
            return
        kind = not_public(address)
        if kind is not None:
            leads = f"it leads to {address}, and that" if named else "it"
            raise EgressDenied(f"{host}:{port}", f"{leads} is not public ({kind}), and not listed as an address")
        if not named and not any(rule.has_name(scheme, "", port) for rule in self._rules):
            raise EgressDenied(f"{host}:{port}", "it is not among the addresses that are allowed")


def not_public(address: Address) -> str | None:
    """What kind of address it is when it is not one of the public Internet, None when it is."""
    address = _unwrapped(address)
    for network, kind in NOT_PUBLIC:
        if address in network:
            return kind
    return "reserved" if address.version == 6 and address not in _GLOBAL_UNICAST else None


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL. Raises InvalidRequest when one is missing or wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError as exc:
        raise InvalidRequest(f"a URL cannot be read: {exc}") from None
    if not parts.hostname or port is None:
        raise InvalidRequest("a URL needs a scheme and a host, and a port where the scheme has none of its own")
    try:
        return parts.scheme, normal_host(parts.hostname), port
    except EgressDenied as exc:
        raise InvalidRequest(f"the host of a URL cannot be read: {exc.message}") from None


@dataclass(frozen=True, slots=True)
class _Rule:
    """`scheme` empty and `port` None are any; either `network` or `name` counts."""

    scheme: str
    port: int | None
    name: str = ""
    network: Network | None = None

    @classmethod
    def parse(cls, text: str) -> "_Rule":
        if (network := _network(text)) is not None:  # first, because the colons of IPv6 look like those of a port
            return cls("", None, network=network)
        parts = _RULE.fullmatch(text)
        if parts is None:
            raise _bad_rule(text, "it has a line break")
        scheme = (parts["scheme"] or "").lower()
        port = int(parts["port"][1:]) if parts["port"] else DEFAULT_PORTS.get(scheme)
        if (scheme and port is None) or (port is not None and not 1 <= port <= 65535):
            raise _bad_rule(text, "it needs a port from 1 to 65535")
        host = parts["host"]
        if (network := _network(host[1:-1] if host.startswith("[") else host)) is not None:
            return cls(scheme, port, network=network)
        return cls(scheme, port, name=_pattern(text, host))

    def has_name(self, scheme: str, name: str, port: int) -> bool:
        if not self.name or not self._fits(scheme, port):
            return False
        if self.name == "*" or self.name == name:
            return True
        return self.name.startswith("*.") and name.endswith(self.name[1:])

    def has_address(self, scheme: str, address: Address, port: int) -> bool:
        if self.network is None or not self._fits(scheme, port):
            return False
        return address in self.network or _mapped(address) in self.network

    def _fits(self, scheme: str, port: int) -> bool:
        return self.scheme in ("", scheme) and self.port in (None, port)


def _pattern(rule: str, host: str) -> str:
    if host == "*":
        return host
    star = "*." if host.startswith("*.") else ""
    try:
        name = normal_host(host.removeprefix(star))
    except EgressDenied as exc:
        raise _bad_rule(rule, "its host is no name, address or network") from exc
    if _NUMBER.fullmatch(name):
        raise _bad_rule(rule, "its host is no name, address or network")
    return star + name


def _bad_rule(text: str, flaw: str) -> InvalidRequest:
    return InvalidRequest(
        f"egress rule {text[:200]!r} cannot be used: {flaw}; rules look like https://api.example.com, "
        "*.example.com:443, 10.0.0.0/8 or [::1]:8080"
    )


def normal_host(text: str) -> str:
    """The one spelling of a host: an address, or a name in lower case, ASCII and without a final dot."""
    name = text.lower().removesuffix(".")
    if _address(name) is not None:
        return name
    if not name.isascii():
        name = _ascii(name)
    if not _NAME.fullmatch(name):
        raise EgressDenied(text, "it is no host name")
    return name


def _ascii(name: str) -> str:
    try:
        import idna  # noqa: PLC0415 - an optional library, and few hosts need it
    except ImportError as exc:
        raise MissingExtra("host names beyond ASCII", "http") from exc
    try:
        return idna.encode(name).decode()
    except idna.IDNAError as exc:
        raise EgressDenied(name, "it is no host name") from exc


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _mapped(address: Address) -> Address:
    """The IPv4 address that `::ffff:a.b.c.d` is another spelling of."""
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that packets for an IPv6 address end up at, where it says so."""
    if address in _6TO4:
        return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return _mapped(address)
