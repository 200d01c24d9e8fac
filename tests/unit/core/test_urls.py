"""The pure part of the SSRF guard: hostile spellings, every kind of address, and the allow-list."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_n8n.core.errors import CallRefused, ConfigurationError
from prefect_n8n.core.settings import Settings
from prefect_n8n.core.urls import (
    MAX_URL,
    AllowList,
    Target,
    check_address,
    check_url,
    is_public,
    parse_url,
)

NOTHING = AllowList()
EVERYTHING = AllowList.parse("0.0.0.0/0, ::/0")

# Addresses

NOT_PUBLIC = [
    # Loopback, private, and what is used like it
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255",
    "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.127.255.255",
    # Link-local and metadata
    "169.254.0.1", "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200",
    "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "febf::1", "fe80::a9fe:a9fe",
    # Special in IPv4, some of it public to ipaddress
    "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    # Special in IPv6
    "::", "::1", "fc00::1", "fdff::1", "fec0::1", "ff02::1", "ff0e::1", "100::1", "2001::1",
    "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1", "3fff:fff::1", "5f00::1",
    "4000::1", "8000::1", "::2", "1::1",
    # IPv4 inside IPv6: mapped, compatible, translated, NAT64, local NAT64, 6to4, Teredo, ISATAP
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0",
    "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8",
    "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "2002:a00:1::1", "2002:0:0::",
    "2001:0:808:808:0:0:80ff:fffe", "2001:0:808:808:0:0:f7f7:f7f7",
    "2a00:1450::5efe:127.0.0.1", "2a00:1450::200:5efe:10.0.0.1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255",
    "172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
    "223.255.255.255", "168.63.129.15", "2606:4700::1111", "2a00:1450:4001::200e", "2000::1",
    "2001:200::1", "2001:4860:4860::8888", "3ffe::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_not_public(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    with pytest.raises(CallRefused, match=r"not a public address.*PREFECT_N8N_ALLOWED_TARGETS"):
        check_url(url_of(address), NOTHING)
    with pytest.raises(CallRefused, match=r"name\.example is"):
        check_address(Target("http", "name.example", 80, "/"), address, NOTHING)


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    address = ip_address(text)
    assert is_public(address)
    assert check_url(url_of(address), NOTHING).address == address


def url_of(address: IPv4Address | IPv6Address) -> str:
    return f"http://[{address}]/" if address.version == 6 else f"http://{address}/"


PRIVATE = [
    IPv4Network(n) for n in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16")
]
WRAPPERS = [(IPv6Network(n), shift) for n, shift in (
    ("::/96", 0), ("::ffff:0:0/96", 0), ("::ffff:0:0:0/96", 0), ("64:ff9b::/96", 0),
    ("2002::/16", 80), ("2001::/32", 64), ("2a00:1:2:3:0:5efe::/96", 0),
)]  # fmt: skip


@given(
    st.sampled_from(PRIVATE).flatmap(
        lambda n: st.integers(0, n.num_addresses - 1).map(n.__getitem__)
    ),
    st.sampled_from(WRAPPERS),
)
def test_no_wrapper_makes_an_inner_address_public(
    inner: IPv4Address, wrapper: tuple[IPv6Network, int]
) -> None:
    network, shift = wrapper
    assert not is_public(IPv6Address(int(network.network_address) | int(inner) << shift))


@given(st.ip_addresses(v=6))
def test_ipv6_outside_the_global_range_is_not_public(address: IPv6Address) -> None:
    given_out = IPv6Network("2000::/3")
    carried = IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")
    if address not in given_out and not any(address in network for network in carried):
        assert not is_public(address)


# Spellings


@pytest.mark.parametrize(
    "url",
    [
        # No http, no host
        "", " ", "http", "http:", "http:/", "http://", "http:///", "https://?a", "http://#",
        "//x.de", "x.de", "ftp://x.de", "file:///etc/passwd", "gopher://x.de",
        "javascript:alert(1)", "unix:///run/docker.sock", "http+unix://%2Frun/x", "http:x.de",
        "http:/x.de", "ws://x.de", "data:text/html,x", "dict://x.de:11211/", "httpſ://x.de",
        # White space and control characters, which parsers strip or split at
        " http://x.de", "http://x.de ", "http://x.de/a b", "http://x.de/\t", "http://x\t.de",
        "http://x.de\r\nHost: y", "ht\ntp://x.de", "http://x.de/\x00", "http://x\x00.de/",
        "http://x.de/\x7f", "http://x.de/\x85", "http://x.de/\u2028", "http://x.de/\u200b",
        "http://x\u00ad.de/", "http://x\u200d.de", "http://x.de\u3000/",
        # Backslashes
        "http:\\\\x.de", "http://x.de\\@y.de", "http://x.de\\y", "http://127.0.0.1\\.x.de",
        # User names
        "http://a@x.de", "http://a:b@x.de", "http://@x.de", "http://x.de@127.0.0.1",
        "http://x.de:80@127.0.0.1", "http://a%40x.de@y.de",
        # Hosts that are no names
        "http://.", "http://..", "http://.x.de", "http://x..de", "http://-x.de", "http://x-.de",
        "http://x.de..", "http://x_y!.de", "http://x,y.de", "http://*.x.de", "http://x$.de",
        "http://%31%32%37.0.0.1", "http://x%2ede", "http://x.de%00", "http://localhost%2f",
        "http://" + "a" * 64 + ".de", "http://" + "a." * 127 + "de", "http://x;y.de", "http://(x)",
        # Ports
        "http://x.de:", "http://x.de:0", "http://x.de:65536", "http://x.de:99999",
        "http://x.de:-1", "http://x.de:+80", "http://x.de:8 0", "http://x.de:80:80",
        "http://x.de:0x50", "http://x.de:http", "http://x.de:٨٠", "http://x.de:000080",
        # Addresses in other notations
        "http://2130706433", "http://0x7f000001", "http://0x7f.1", "http://017700000001",
        "http://0177.0.0.1", "http://127.1", "http://127.0.1", "http://0", "http://0x",
        "http://127.0.0.01", "http://127.0.0.0x1", "http://0x7f.0.0.0x1", "http://127.0.0.1.",
        "http://127.0.0.256", "http://1.2.3.4.5", "http://127.0.0.1.0", "http://999999999999",
        "http://x.de.1", "http://x.0x7f", "http://00000.0.0.0", "http://08.8.8.8", "http://1.2.3",
        # IPv6
        "http://[", "http://]", "http://[]", "http://[::1", "http://::1", "http://[::1]x",
        "http://[::1]:", "http://[::1%25eth0]", "http://[fe80::1%eth0]", "http://[v1.x]",
        "http://[:::1]", "http://[::1]]", "http://[[::1]]", "http://[127.0.0.1]", "http://[x.de]",
        "http://[::1].x.de", "http://[::ffff:127.0.0.01]", "http://[1:2:3:4:5:6:7:8:9]",
        # Names that are numbers once they are normalised
        "http://127。0。0。1", "http://１２７.0.0.1", "http://①②⑦.⓪.⓪.①", "http://127．0．0．1",
        "http://2130706433。", "http://0ｘ7f000001", "http://x。1", "http://⓪",
        "http://x.de℀y", "http://x／y.de", "http://x：80", "http://x＠y.de", "http://x＃y",
        "http://ex\u2024ample..de", "http://\u2026", "http://xn--.de", "http://é-.de", "http://\ud800.de",
        "http://x.de/" + "a" * MAX_URL,
    ],
)  # fmt: skip
def test_what_is_not_plainly_written_is_refused_though_everything_is_allowed(url: str) -> None:
    with pytest.raises(CallRefused, match="URL"):
        check_url(url, EVERYTHING)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://x.de", ("http", "x.de", 80, "/")),
        ("HTTPS://X.De", ("https", "x.de", 443, "/")),
        ("http://x.de./a", ("http", "x.de", 80, "/a")),
        ("http://x.de?a=b", ("http", "x.de", 80, "/?a=b")),
        ("http://x.de#part", ("http", "x.de", 80, "/")),
        ("http://x.de/#@127.0.0.1/", ("http", "x.de", 80, "/")),
        ("http://x.de/a@b?c@d", ("http", "x.de", 80, "/a@b?c@d")),
        ("http://x.de:5678/webhook/1?s=%2F", ("http", "x.de", 5678, "/webhook/1?s=%2F")),
        ("https://x.de:08443/", ("https", "x.de", 8443, "/")),
        ("http://n8n", ("http", "n8n", 80, "/")),
        ("http://n8n_main-1:5678", ("http", "n8n_main-1", 5678, "/")),
        ("http://1a.de", ("http", "1a.de", 80, "/")),
        ("http://1.2.3.de", ("http", "1.2.3.de", 80, "/")),
        ("http://8.8.8.8", ("http", "8.8.8.8", 80, "/")),
        ("http://[2606:4700:0::1111]:443", ("http", "2606:4700::1111", 443, "/")),
        ("http://münchen.de/ü?ö=☕", ("http", "xn--mnchen-3ya.de", 80, "/%C3%BC?%C3%B6=%E2%98%95")),
        ("http://MÜNCHEN。de", ("http", "xn--mnchen-3ya.de", 80, "/")),
        ("http://faß.de", ("http", "xn--fa-hia.de", 80, "/")),
        ("http://xn--mnchen-3ya.de", ("http", "xn--mnchen-3ya.de", 80, "/")),
        ('http://x.de/"<a>`{b}|^', ("http", "x.de", 80, "/%22%3Ca%3E%60%7Bb%7D%7C%5E")),
    ],
)  # fmt: skip
def test_a_plain_url_in_its_parts(url: str, target: tuple[str, str, int, str]) -> None:
    assert check_url(url, NOTHING) == Target(*target)


def test_how_a_target_is_shown_and_sent() -> None:
    target = parse_url("https://[2606:4700::1111]/a?secret")
    assert target.origin == "https://[2606:4700::1111]:443"
    assert target.authority == "[2606:4700::1111]"
    assert target.url == "https://[2606:4700::1111]/a?secret"
    assert parse_url("http://x.de:443").authority == "x.de:443"
    assert parse_url("https://x.de:80").authority == "x.de:80"


@given(st.text())
def test_any_text_is_a_target_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://x.de/{text}", f"http://{text}.de:80/"):
        try:
            target = check_url(url, NOTHING)
        except CallRefused:
            continue
        assert target.host.isascii()
        assert target.path_and_query.startswith("/")
        assert target.path_and_query.isascii()
        assert target.path_and_query.isprintable()
        assert " " not in target.url
        assert target.address is None or is_public(target.address)
        assert parse_url(target.url) == target, "it reads the same once more"


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "0x{:x}", "0{:o}", "0x{:08X}"]))
def test_an_address_has_one_notation(number: int, form: str) -> None:
    with pytest.raises(CallRefused):
        check_url(f"http://{form.format(number)}/", EVERYTHING)


# Ports


@pytest.mark.parametrize("port", [80, 443, 5678, 8443])
def test_usual_ports(port: int) -> None:
    for host in ("x.de", "8.8.8.8", "[2606:4700::1111]"):
        assert check_url(f"http://{host}:{port}", NOTHING).port == port


@pytest.mark.parametrize("port", [1, 22, 25, 81, 2375, 3306, 5432, 6379, 8080, 8788, 9200, 65535])
def test_other_ports_are_refused(port: int) -> None:
    for host in ("x.de", "8.8.8.8", "[2606:4700::1111]"):
        with pytest.raises(CallRefused, match=rf"Port {port} is not one of 80, 443, 5678, 8443"):
            check_url(f"http://{host}:{port}", NOTHING)


def test_an_entry_opens_other_ports() -> None:
    for text in ("x.de", "x.de:8080"):
        assert check_url("http://x.de:8080", AllowList.parse(text)).port == 8080
    for text in ("x.de:8081", "y.de", "y.de:8080"):
        with pytest.raises(CallRefused, match="Port 8080"):
            check_url("http://x.de:8080", AllowList.parse(text))


def test_a_networks_entry_opens_no_ports_outside_it() -> None:
    """A name may resolve into the network, so its port is judged when it is dialled."""
    allowed = AllowList.parse("10.0.0.0/8")
    target = check_url("http://x.de:22", allowed)
    check_address(target, ip_address("10.1.2.3"), allowed)
    with pytest.raises(CallRefused, match="Port 22"):
        check_address(target, ip_address("8.8.8.8"), allowed)
    with pytest.raises(CallRefused, match="Port 22"):
        check_url("http://8.8.8.8:22", allowed)


# The allow-list


@pytest.mark.parametrize(
    ("entries", "host", "port", "address", "allowed"),
    [
        ("n8n", "n8n", 5678, None, True),
        ("n8n", "n8n", 22, "10.0.0.1", True),
        ("n8n:5678", "n8n", 5678, "10.0.0.1", True),
        ("n8n:5678", "n8n", 22, "10.0.0.1", False),
        ("n8n", "n8n.evil.de", 80, "10.0.0.1", False),
        ("n8n", "xn8n", 80, "10.0.0.1", False),
        ("N8N.", "n8n", 80, None, True),
        ("10.0.0.1", "10.0.0.1", 80, None, True),
        ("10.0.0.1", "n8n", 80, "10.0.0.1", True),
        ("10.0.0.1:80", "n8n", 81, "10.0.0.1", False),
        ("10.0.0.1", "n8n", 80, "10.0.0.2", False),
        ("10.0.0.0/8", "n8n", 80, "10.255.0.1", True),
        ("10.0.0.0/8", "n8n", 80, "11.0.0.1", False),
        ("[::1]:8080", "::1", 8080, None, True),
        ("[::1]:8080", "::1", 80, None, False),
        ("::1", "::1", 80, None, True),
        ("fd00::/8", "n8n", 80, "fd12::1", True),
        ("127.0.0.0/8", "x", 80, "::ffff:127.0.0.1", False),
        ("", "n8n", 5678, None, False),
        # Link-local and metadata: only an address that is named itself
        ("evil.de", "evil.de", 80, "169.254.169.254", False),
        ("169.254.0.0/16", "x", 80, "169.254.169.254", False),
        ("0.0.0.0/0", "x", 80, "169.254.169.254", False),
        ("0.0.0.0/0 ::/0", "169.254.169.254", 80, None, False),
        ("::/0", "x", 80, "fe80::1", False),
        ("::/0", "x", 80, "fd00:ec2::254", False),
        ("::/0", "x", 80, "::ffff:169.254.169.254", False),
        ("::/0", "x", 80, "64:ff9b::169.254.169.254", False),
        ("::/0", "x", 80, "2002:a9fe:a9fe::1", False),
        ("10.0.0.0/8", "x", 80, "100.100.100.200", False),
        ("100.64.0.0/10", "x", 80, "100.100.100.200", False),
        ("100.64.0.0/10", "x", 80, "100.100.100.201", True),
        ("169.254.169.254", "x", 80, "169.254.169.254", True),
        ("169.254.169.254/32", "x", 80, "169.254.169.254", True),
        ("169.254.169.254:80", "169.254.169.254", 80, None, True),
        ("169.254.169.254:80", "169.254.169.254", 81, None, False),
        ("169.254.169.253", "x", 80, "169.254.169.254", False),
        ("fe80::1", "x", 80, "fe80::1", True),
    ],
)  # fmt: skip
def test_what_is_allowed(
    entries: str, host: str, port: int, address: str | None, allowed: bool
) -> None:
    dialled = ip_address(address) if address else None
    assert AllowList.parse(entries).allows(host, port, dialled) is allowed


@pytest.mark.parametrize(
    "entry",
    [
        "http://n8n", "n8n/", "a b!", "*", "*.de", "10.0.0.1/8", "10.0.0.0/33", "n8n:0",
        "n8n:70000", "n8n:x", "2130706433", "10.1", "[::1", "::1:80:x", "a@b", "-", "[n8n]", "n8n:",
        "10.0.0.0/8:80",
    ],
)  # fmt: skip
def test_an_entry_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="PREFECT_N8N_ALLOWED_TARGETS") as caught:
        AllowList.parse(f"n8n,{entry}")
    assert entry.split()[-1].strip() in str(caught.value)


def test_entries_are_parted_by_commas_and_space() -> None:
    assert AllowList.parse(" a:1,b ,\n10.0.0.0/8\t,,") == AllowList.parse("10.0.0.0/8 b a:1")
    assert AllowList.parse("") == AllowList.parse(" , ") == AllowList()


def test_n8n_of_this_process_is_allowed_at_its_port_alone() -> None:
    settings = Settings(
        n8n_base_url="http://localhost:15678/n8n",
        n8n_webhook_url="https://10.0.0.7/hooks",
        allowed_targets="crm:8080",
    )
    allowed = settings.allow_list()
    assert allowed.allows("localhost", 15678, ip_address("127.0.0.1"))
    assert allowed.allows("10.0.0.7", 443)
    assert allowed.allows("crm", 8080)
    for host, port in (("localhost", 5678), ("10.0.0.7", 80), ("127.0.0.1", 15678)):
        assert not allowed.allows(host, port)
    assert Settings().allow_list() == AllowList()


def test_settings_that_cannot_be_read() -> None:
    for settings in (Settings(allowed_targets="a/b"), Settings(n8n_base_url="localhost:5678")):
        with pytest.raises(ConfigurationError):
            settings.allow_list()


def test_a_metadata_address_that_was_meant_says_how() -> None:
    with pytest.raises(CallRefused, match="must be named itself"):
        check_url("http://169.254.169.254/", AllowList.parse("169.254.0.0/16"))


def test_errors_name_the_origin_and_no_more() -> None:
    with pytest.raises(CallRefused) as caught:
        check_url("http://10.0.0.1/hunter2?hunter2", NOTHING)
    assert caught.value.target == "http://10.0.0.1:80"
    for url in ("http://u:hunter2@x.de", "http://x.de/ hunter2", "hunter2://x", "http://hunter2!/"):
        with pytest.raises(CallRefused) as caught:
            check_url(url, NOTHING)
        assert "hunter2" not in str(caught.value)
