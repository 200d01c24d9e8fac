"""Which URLs we call: the SSRF guard's pure part. ``blocks/network.py`` applies it when dialling.

Targets come from users, tenants and answers, so a URL is refused unless it is plainly written, on a
usual port, and at a public address. What an operator names in this process's settings is allowed
besides; link-local and cloud metadata addresses only where they are named one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import NoReturn

from .errors import CallRefused, ConfigurationError

MAX_URL = 8192
USUAL_PORTS = frozenset({80, 443, 5678, 8443})
"""Ports that need no line in the allow-list: HTTP's, HTTPS's, n8n's, and the usual other one."""

_ITSELF = " A link-local or metadata address must be named itself."

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# An own list: ``ipaddress.is_global`` calls many of these public, and differs between versions.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host; Linux dials loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# What IANA has given out as global unicast; the rest of IPv6 is special or not in use.
_GLOBAL_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "3fff::/20",  # documentation
    )
)
# IPv6 that stands for an IPv4 address, with the bits behind that address: whoever is dialled, or
# carries the packets on, ends at that one.
_CARRIERS = (
    (IPv6Network("::/96"), 0),  # "compatible", long obsolete
    (IPv6Network("::ffff:0:0/96"), 0),  # mapped: the system dials IPv4
    (IPv6Network("::ffff:0:0:0/96"), 0),  # translated
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (IPv6Network("2002::/16"), 80),  # 6to4
)
# The same where the IPv4 address is as public as the IPv6 one: the others are not in use any more.
_AS_PUBLIC = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16"))
_TEREDO = IPv6Network("2001::/32")
# 0000:5efe and 0200:5efe before the last 32 bits: ISATAP carries those on as IPv4.
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})

# Where machines keep their keys, and where only neighbours are: no network opens these.
_NAMED_ONE_BY_ONE = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
        "fd00:ec2::/32",
        "fd20:ce::/32",
    )
)

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.ASCII | re.DOTALL)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]%]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# WHATWG: a host whose last label is a number is an IPv4 address, in whatever notation.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOTTED_QUAD = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
_UNSAFE = re.compile(r"""[^\x21-\x7e]|["<>\\^`{|}]""")


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL in its parts, as they are dialled and sent.

    ``host`` is in lower case, without brackets, in ASCII; ``path_and_query`` begins with ``/``.
    """

    scheme: str
    host: str
    port: int
    path_and_query: str

    @property
    def origin(self) -> str:
        """``scheme://host:port``: what may be logged, where a path may hold a secret."""
        return f"{self.scheme}://{self.host_and_port}"

    @property
    def host_and_port(self) -> str:
        """``host:port``, as an allow-list names it."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """The ``Host`` header: the port only where it is not the scheme's own."""
        usual = {"http": 80, "https": 443}[self.scheme]
        return self.host_and_port.removesuffix(f":{usual}")

    @property
    def url(self) -> str:
        """The whole URL, for the wire; it may hold a secret."""
        return f"{self.scheme}://{self.authority}{self.path_and_query}"

    @property
    def address(self) -> Address | None:
        """The host where it is an address and no name."""
        return _address(self.host)


@dataclass(frozen=True)
class AllowList:
    """Targets an operator allows although they are not public, from this process's settings only.

    An entry is a host name, an address or a network, each with a port or for every port.
    """

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: frozenset[tuple[Network, int | None]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> AllowList:
        """Read entries parted by commas or white space: ``n8n:5678, 10.0.0.0/8, [::1]:8080``.

        Raises:
            ConfigurationError: an entry is none of these; the message names it.
        """
        hosts: set[tuple[str, int | None]] = set()
        networks: set[tuple[Network, int | None]] = set()
        for entry in re.split(r"[,\s]+", text):
            if not entry:
                continue
            host, port = _entry(entry)
            if isinstance(host, str):
                hosts.add((host, port))
            else:
                networks.add((host, port))
        return cls(frozenset(hosts), frozenset(networks))

    def with_urls(self, urls: Iterable[str]) -> AllowList:
        """Return this list with the exact host and port of each URL.

        Raises:
            ConfigurationError: one of them is no URL.
        """
        hosts, networks = set(self.hosts), set(self.networks)
        for url in urls:
            try:
                target = parse_url(url)
            except CallRefused as error:
                raise ConfigurationError(f"An address of n8n cannot be read: {error}") from None
            if target.address is None:
                hosts.add((target.host, target.port))
            else:
                networks.add((ip_network(target.host), target.port))
        return AllowList(frozenset(hosts), frozenset(networks))

    def allows(self, host: str, port: int, address: Address | None = None) -> bool:
        """Whether this host and port, or the address it resolved to, is allowed by an entry.

        A host's entry covers what the name resolves to, but for link-local and metadata addresses:
        those an entry must name exactly, as a single address.
        """
        named = not {(host, port), (host, None)}.isdisjoint(self.hosts)
        address = address or _address(host)
        if address is None:
            return named
        entries = [net for net, only in self.networks if only in (None, port) and address in net]
        if _is_named_one_by_one(address):
            return any(network.num_addresses == 1 for network in entries)
        return named or bool(entries)

    def names_port(self, host: str, port: int) -> bool:
        """Whether an entry may open a port that is not usual, before the name is resolved."""
        if _address(host) is not None:
            return self.allows(host, port)
        # A name may resolve into an allowed network: dialling decides.
        return self.allows(host, port) or any(only in (None, port) for _, only in self.networks)


def check_url(url: str, allowed: AllowList) -> Target:
    """Return the URL's parts where it may be called; no name is resolved here.

    Raises:
        CallRefused: it is not plainly http or https, or its host or port is not allowed.
    """
    target = parse_url(url)
    if target.address is not None:
        check_address(target, target.address, allowed)
    elif target.port not in USUAL_PORTS and not allowed.names_port(target.host, target.port):
        _refuse_port(target)
    return target


def check_address(target: Target, address: Address, allowed: AllowList) -> None:
    """Check the address that is to be dialled for the target.

    Raises:
        CallRefused: it is not public, or its port not usual, and the allow-list does not name it.
    """
    if allowed.allows(target.host, target.port, address):
        return
    if not is_public(address):
        what = str(address) if target.address else f"{target.host} is {address}, which"
        raise CallRefused(
            f"{what} is not a public address. If it is meant, name {target.host_and_port} in"
            " PREFECT_N8N_ALLOWED_TARGETS." + (_ITSELF if _is_named_one_by_one(address) else ""),
            target=target.origin,
        )
    if target.port not in USUAL_PORTS:
        _refuse_port(target)


def is_public(address: Address) -> bool:
    """Whether everyone on the internet means the same machine by the address.

    IPv6 that carries an IPv4 address is at most as public as that one.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if not all(is_public(inner) for inner in _carried(address)):
        return False
    if any(address in network for network in _AS_PUBLIC):
        return True
    return address in _GLOBAL_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def _carried(address: Address) -> list[IPv4Address]:
    """The IPv4 addresses inside an IPv6 one."""
    if isinstance(address, IPv4Address):
        return []
    bits = int(address)
    found = [bits >> behind for network, behind in _CARRIERS if address in network]
    if address in _TEREDO:
        # The server, and the client in inverted bits.
        found += [bits >> 64, ~bits]
    if bits >> 32 & 0xFFFFFFFF in _ISATAP:
        found.append(bits)
    return [IPv4Address(inner & 0xFFFFFFFF) for inner in found]


def _is_named_one_by_one(address: Address) -> bool:
    """Whether the address, or one it carries, is link-local or a cloud's metadata."""
    return any(
        face in network for face in (address, *_carried(address)) for network in _NAMED_ONE_BY_ONE
    )


def parse_url(url: str) -> Target:
    """Take a URL apart, whether or not it may be called.

    Raises:
        CallRefused: it is not plainly written: another scheme, a user name, white space or control
            characters, a host that is no DNS name and no address in its one usual notation.
    """
    if len(url) > MAX_URL:
        _refuse(f"The URL is longer than {MAX_URL} characters.")
    if not url.isprintable() or " " in url or "\\" in url:
        _refuse("The URL has white space, a backslash or a control character.")
    match = _URL.fullmatch(url)
    if match is None:
        _refuse("The URL must begin with http:// or https://.")
    scheme, authority, rest = match[1].lower(), match[2], match[3]
    if "@" in authority:
        _refuse("The URL has a user name or password: give secrets to a block instead.")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        _refuse("The URL's host or port is not plainly written.")
    host = _host(parts[1])
    port = int(parts[2]) if parts[2] else {"http": 80, "https": 443}[scheme]
    if not 0 < port < 65536:
        _refuse("The URL's port is not between 1 and 65535.")
    if not rest.startswith("/"):
        rest = "/" + rest
    return Target(scheme, host, port, _UNSAFE.sub(_percent, rest))


def _host(text: str) -> str:
    """Return the host in its one notation; a name becomes ASCII."""
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            _refuse("The URL's host is not an IPv6 address.")
    name = text.lower() if text.isascii() else _idna(text)
    name = name.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Decimal, octal, hexadecimal and short notations mean different machines to different
        # readers; so does any address that takes normalising to be seen.
        if not text.isascii() or not _DOTTED_QUAD.fullmatch(text):
            _refuse("The URL's host is a number: write an address as four decimal numbers.")
        try:
            return str(IPv4Address(name))
        except ValueError:
            _refuse("The URL's host is not an IPv4 address.")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        _refuse("The URL's host is not a DNS name.")
    return name


def _idna(text: str) -> str:
    """Return a name of other scripts as DNS has it."""
    # Here, because its tables are large and few hosts need them.
    import idna

    try:
        return idna.encode(text, uts46=True, std3_rules=True).decode("ascii").lower()
    except idna.IDNAError:
        _refuse("The URL's host is not a DNS name.")


def _entry(text: str) -> tuple[str | Network, int | None]:
    """Read one entry of an allow-list: (name or network, port or None)."""
    try:
        return ip_network(text), None
    except ValueError:
        pass
    match = _AUTHORITY.fullmatch(text)
    try:
        if match is None:
            _refuse("")
        host = _host(match[1])
    except CallRefused:
        raise ConfigurationError(
            f"PREFECT_N8N_ALLOWED_TARGETS: {text!r} is no host, host:port, address or network."
        ) from None
    port = int(match[2]) if match[2] else None
    if port is not None and not 0 < port < 65536:
        raise ConfigurationError(f"PREFECT_N8N_ALLOWED_TARGETS: {text!r} has no such port.")
    return (host if _address(host) is None else ip_network(host)), port


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8"))


def _refuse(message: str) -> NoReturn:
    raise CallRefused(message)


def _refuse_port(target: Target) -> NoReturn:
    usual = ", ".join(str(port) for port in sorted(USUAL_PORTS))
    raise CallRefused(
        f"Port {target.port} is not one of {usual}. If it is meant, name {target.host_and_port} in"
        " PREFECT_N8N_ALLOWED_TARGETS.",
        target=target.origin,
    )
