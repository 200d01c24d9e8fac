"""The header Prefer: what asks us to wait, and for how long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_n8n.receiver.preferences import wait_of


def prefer(*values: str) -> int | None:
    return wait_of([(b"prefer", value.encode("latin-1")) for value in values])


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["wait=30"], 30),
        (["Wait = 30"], 30),
        (["wait=\t7 "], 7),
        (["wait=0"], 0),
        (["wait=007"], 7),
        (["wait=55"], 55),
        (["wait=56"], 55),
        (["wait=" + "9" * 5000], 55),
        (["wait=00000000000000000000000000000012"], 12),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=10, respond-async"], 10),
        (['return=minimal; foo="a, wait=1" ;bar, wait=10; x'], 10),
        ([",, wait=10 ,"], 10),
        (["wait=10, wait=20"], 10),
        (["wait=10", "wait=20"], 10),
        ([], None),
        ([""], None),
        (["wait"], None),
        (["wait="], None),
        (["wait=ten"], None),
        (["wait=-1"], None),
        (["wait=+1"], None),
        (["wait=1.5"], None),
        (["wait=1e1"], None),
        (["wait=0x10"], None),
        (['wait="10"'], None),
        (["wait=10 20"], None),
        (["wait=\xb2"], None),
        (["waiting=10"], None),
        (["respond-async; wait=10"], None),
        # The first counts, also where it says nothing.
        (["wait=soon, wait=10"], None),
        # Behind what is not well-formed nothing is read.
        (['"unclosed, wait=10'], None),
    ],
)
def test_what_is_preferred(values: list[str], seconds: int | None) -> None:
    assert prefer(*values) == seconds


def test_other_headers_are_not_read() -> None:
    assert wait_of([(b"x-prefer", b"wait=1"), (b"preference", b"wait=1")]) is None


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=40), max_size=3))
def test_any_bytes_are_read(values: list[str]) -> None:
    seconds = prefer(*values)
    assert seconds is None or 0 <= seconds <= 55


@pytest.mark.parametrize("piece", ["; ", " ;\t", "a=b;", ",", "a ", '"\\"', "=", ";;a= "])
def test_a_hostile_header_is_read_once(piece: str) -> None:
    begun = time.perf_counter()
    prefer("a" + piece * (60_000 // len(piece)) + "\x00")
    assert time.perf_counter() - begun < 1.0
