"""The guard and httpx read the same in every URL, so what was checked is what is called."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_n8n.core.errors import CallRefused
from prefect_n8n.core.urls import AllowList, check_url, parse_url

EVERYTHING = AllowList.parse("0.0.0.0/0, ::/0")
HOSTS = st.sampled_from(
    ["x.de", "X.DE.", "münchen.de", "xn--mnchen-3ya.de", "xn--a", "n8n_main", "8.8.8.8", "[::1]",
     "[::ffff:1.2.3.4]", "a" * 63 + ".de", "1a", "faß.de"]
)  # fmt: skip
PORTS = st.sampled_from(["", ":80", ":443", ":5678", ":8443"])


@given(st.sampled_from(["http", "https"]), HOSTS, PORTS, st.text(max_size=60))
def test_httpx_reads_what_was_checked(scheme: str, host: str, port: str, rest: str) -> None:
    try:
        target = check_url(f"{scheme}://{host}{port}/{rest}", EVERYTHING)
    except CallRefused:
        return
    seen = httpx.Request("GET", target.url, headers={"host": target.authority}).url
    again = parse_url(str(seen))
    assert (again.scheme, again.host, again.port) == (target.scheme, target.host, target.port)
    # Dots may be resolved; nothing else moves.
    if "/." not in target.path_and_query:
        assert again.path_and_query == target.path_and_query


@pytest.mark.parametrize("rest", ["a?b=c&d=[e]", "a;b,c", "a%2F%zz%", "?x='y'", "a//b", ":@/"])
def test_reserved_characters_stay(rest: str) -> None:
    target = parse_url(f"http://x.de/{rest}")
    assert parse_url(str(httpx.URL(target.url))).path_and_query == target.path_and_query
