"""What a stranger's bytes can do to a running receiver: edge rules 1 and 2, path and framing.

After every test the receiver is alive and has met nothing unexpected: fixture ``edge`` sees to it.
"""

from __future__ import annotations

import pytest

from prefect_n8n.receiver.app import PREFIX
from support import edge_server
from support.edge_server import EdgeServer, Stored
from support.wire import (
    CHUNKED,
    HEALTH,
    LAST,
    OTHER_SECRET,
    accepted,
    chunked,
    chunks,
    new_id,
    refusal,
    request,
    signed,
)

pytestmark = pytest.mark.xdist_group("edge")
running, edge, stored = edge_server.running, edge_server.edge, edge_server.stored

ORDERS = f"{PREFIX}/orders"


# 1: the method and the path

WRONG_PATHS = f"""
405 GET     {ORDERS}
405 PUT     {ORDERS}
405 PATCH   {ORDERS}
405 DELETE  {PREFIX}
405 TRACE   {ORDERS}
405 post    {ORDERS}
405 POST    /healthz
404 POST    /
404 POST    /nothing
404 POST    {ORDERS}/
404 GET     /healthz/
404 POST    /{ORDERS}
404 POST    {PREFIX}//orders
404 POST    {PREFIX}/x/../orders
404 POST    {PREFIX}/orders%2Fx
404 POST    /api/webhooks/./n8n/orders
404 POST    //evil.example{ORDERS}
404 POST    http://test{ORDERS}
404 OPTIONS *
404 CONNECT test:443
""".strip().splitlines()


@pytest.mark.parametrize("line", WRONG_PATHS)
def test_rule_1_other_methods_and_paths(edge: EdgeServer, stored: Stored, line: str) -> None:
    status, method, target = line.split()
    event_id = new_id()
    sent = request(method=method, target=target, headers=signed(b"{}", event_id=event_id))
    answer = refusal(edge.ask(sent), int(status))
    assert "location" not in answer.headers
    assert ("allow" in answer.headers) == (status == "405")
    assert event_id not in stored.bodies()


def test_rule_1_a_percent_encoded_slug_is_the_slug(edge: EdgeServer) -> None:
    lines = signed(b"{}", event_id=new_id())
    accepted(edge.ask(request(target=f"{PREFIX}/%6Frders", headers=lines)))
    assert accepted(edge.ask(request(headers=lines))).json["duplicate"] is True


ODD_SLUGS = """
%00
orders%00
orders%0A
orders%20
Orders
%ff
%ED%A0%80
%C3%B6rders
%
%zz
%2e%2e
'%3B--
%25s
""".strip().splitlines()


@pytest.mark.parametrize("slug", [*ODD_SLUGS, "o" * 60_000], ids=lambda slug: slug[:12])
def test_rule_1_odd_slugs_are_unknown_endpoints(edge: EdgeServer, slug: str) -> None:
    answer = refusal(edge.ask(request(target=f"{PREFIX}/{slug}")), 401)
    unknown = refusal(edge.ask(request(target=f"{PREFIX}/nowhere")), 401)
    assert answer.body == unknown.body


# 2: the framing

UNCLEAR = [
    {"host": None},
    {"host": b"Host: test\r\nHost: test"},
    {"host": b"Host: test\r\nHost: evil.example"},
    {"host": b"Host : test"},
    {"host": b"Host: te\x00st"},
    {"host": b"Host: test\rX-A: b"},
    {"host": b" Host: test"},
    {"host": b"Host: test\r\nNo colon"},
    {"host": b"Host: test\r\n: no name"},
    {"host": b"Host: test\r\nn\xc3\xa4me: x"},
    {"version": "HTTP/2.0"},
    {"version": "HTTP/1.2"},
    {"version": "HTTP/0.9"},
    {"version": "HTTP/1.10"},
    {"version": "http/1.1"},
    {"version": ""},
    {"end": b"\r"},
    {"length": b"Content-Length: 3\r\nContent-Length: 2"},
    {"length": b"Content-Length: 2, 3"},
    {"length": b"Content-Length: -2"},
    {"length": b"Content-Length: +2"},
    {"length": b"Content-Length: 0x2"},
    {"length": b"Content-Length: 2 2"},
    {"length": b"Content-Length: 2_0"},
    {"length": b"Content-Length: \xd9\xa2"},
    {"length": b"Content-Length: "},
    {"length": b"Content-Length : 2"},
    {"length": b"Content-Length: " + b"9" * 5000},
    {"length": b"Transfer-Encoding: gzip, chunked"},
    {"length": b"Transfer-Encoding: chunked, chunked"},
    {"length": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"},
    {"length": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"},
    {"length": b"Transfer-Encoding: identity,\r\n chunked"},
    {"length": b"Transfer-Encoding: identity"},
    {"length": b"Transfer-Encoding: xchunked"},
    {"length": b"Transfer-Encoding: \x0bchunked"},
    {"length": b"Transfer-Encoding : chunked"},
    {"length": CHUNKED, "version": "HTTP/1.0"},
    {"length": b"Content-Length: 2\r\nTransfer-Encoding: chunked"},
    {"length": b"Transfer-Encoding: chunked\r\nContent-Length: 2"},
    {"length": b"Content-Length: 2\r\nTransfer-Encoding: identity"},
]


@pytest.mark.parametrize("parts", UNCLEAR, ids=lambda parts: str(parts)[:70])
def test_rule_2_unclear_framing_ends_the_connection(
    edge: EdgeServer, stored: Stored, parts: dict[str, str | bytes | None]
) -> None:
    event_id = new_id()
    sent = request(headers=signed(b"{}", event_id=event_id), **parts)  # type: ignore[arg-type]
    if b"hunked" in sent:
        sent = sent.removesuffix(b"{}") + chunks(b"{}") + b"\r\n"
    with edge.wire() as wire:
        wire.send(sent + HEALTH)
        (answer,) = wire.answers()
    refusal(answer, 400)
    assert event_id not in stored.bodies()


@pytest.mark.parametrize("length_first", [True, False])
def test_rule_2_no_request_is_smuggled(
    edge: EdgeServer, stored: Stored, length_first: bool
) -> None:
    event_id = new_id()
    body = b"0\r\n\r\n" + request(headers=signed(b"{}", event_id=event_id))
    both = [b"Content-Length: %d" % len(body), CHUNKED]
    with edge.wire() as wire:
        wire.send(request(body, length=b"\r\n".join(both if length_first else both[::-1])))
        (answer,) = wire.answers()
    refusal(answer, 400)
    assert event_id not in stored.bodies()


LENGTH_TWICE = [
    b"Content-Length: 2\r\nContent-Length: 2",
    b"Content-Length: 2\r\nX-A: b\r\ncontent-LENGTH:2",
    b"Content-Length: 2\nContent-Length: 2",
    b"Content-Length: 2, 2",
    b"Content-Length: 2\r\n\t, 2",
]


@pytest.mark.parametrize("line", LENGTH_TWICE)
@pytest.mark.parametrize("place", ["first", "in pieces", "behind another", "after another"])
def test_rule_2_a_length_is_said_once(
    edge: EdgeServer, stored: Stored, line: bytes, place: str
) -> None:
    """h11 takes the same length said twice as one, and shows it as one."""
    event_id, before = new_id(), new_id()
    sent = request(headers=signed(b"{}", event_id=event_id), length=line)
    with edge.wire() as wire:
        if place == "in pieces":
            for at in range(0, len(sent), 7):
                wire.send(sent[at : at + 7])
        elif place == "first":
            wire.send(sent + HEALTH)
        else:
            first = request(headers=signed(b"{}", event_id=before))
            wire.send(first + (sent if place == "behind another" else b""))
            accepted(wire.answer())
            wire.send(HEALTH if place == "behind another" else sent)
        (answer,) = wire.answers()
    refusal(answer, 400)
    assert event_id not in stored.bodies()


def test_rule_2_what_only_looks_like_a_second_length(edge: EdgeServer) -> None:
    odd = [b"X-A: Content-Length: 3", b"X-B: a\r\n Content-Length: 3", b"X-Content-Length: 3"]
    body = b"{}\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n"
    with edge.wire() as wire:
        wire.send(request(headers=[*odd, *signed(b"{}", event_id=new_id())]))
        accepted(wire.answer())
        wire.send(request(body, headers=signed(body, event_id=new_id())))
        refusal(wire.answer(), 400)  # for its JSON


def test_rule_2_a_bare_line_feed_ends_a_header_and_nothing_else(
    edge: EdgeServer, stored: Stored
) -> None:
    with edge.wire() as wire:
        wire.send(request(headers=signed(b"{}", event_id=new_id()), end=b"\n") + LAST)
        event, health = wire.answers()
    accepted(event)
    assert health.status == 200
    # In a value it begins another header, which may not contradict the others.
    for hidden in (b"Content-Length: 0", CHUNKED, b"Host: evil.example", b"webhook-id: forged"):
        refusal(edge.ask(request(headers=[*signed(b"{}"), b"X-A: a\n" + hidden])), 400, 401)
    # Between chunks only CRLF will do.
    event_id = new_id()
    refusal(edge.ask(chunked(b"{}", b"2\n{}\n0\n\n\r\n\r\n", event_id)), 400)
    assert event_id not in stored.bodies()


def test_rule_2_a_folded_header_is_one_value(edge: EdgeServer, stored: Stored) -> None:
    event_id = new_id()
    lines = signed(b"{}", event_id=event_id)
    folded = [line.replace(b"webhook-id: ", b"webhook-id:\r\n\t ") for line in lines]
    accepted(edge.ask(request(headers=folded)))
    assert event_id in stored.bodies()
    torn = [line.replace(b"evt_", b"evt_\r\n ") for line in signed(b"{}", event_id=new_id())]
    refusal(edge.ask(request(headers=torn)), 401)


@pytest.mark.parametrize("host", [b"Host: test", None])
def test_rule_2_http_1_0_is_answered_once(edge: EdgeServer, host: bytes | None) -> None:
    lines = signed(b"{}", event_id=new_id())
    with edge.wire() as wire:
        wire.send(request(headers=lines, version="HTTP/1.0", host=host) + HEALTH)
        (answer,) = wire.answers()
    accepted(answer)


def test_rule_2_http_1_0_has_at_most_one_host(edge: EdgeServer) -> None:
    refusal(edge.ask(request(version="HTTP/1.0", host=b"Host: a\r\nHost: b")), 400)


LARGE = {
    "long": [b"X-A: " + b"a" * 70_000],
    "endless": [b"X-A: " + b"a" * 500_000],
    "many": [b"X-A: a"] * 9_000,
    "short": [b"a:"] * 30_000,
}


@pytest.mark.parametrize("lines", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("pieces", [1, 7])
def test_rule_2_the_head_has_a_limit(edge: EdgeServer, lines: list[bytes], pieces: int) -> None:
    sent = request(headers=[*signed(b"{}"), *lines])
    step = len(sent) // pieces + 1
    with edge.wire() as wire:
        for start in range(0, len(sent), step):
            wire.send(sent[start : start + step])
        (answer,) = wire.answers()
    refusal(answer, 400, 431)


def test_rule_2_the_target_counts_for_the_limit(edge: EdgeServer) -> None:
    refusal(edge.ask(request(target=f"{ORDERS}?{'a' * 70_000}")), 400, 431)


def test_rule_2_pipelined_events_are_answered_in_their_order(
    edge: EdgeServer, stored: Stored
) -> None:
    events = {new_id(): b'{"n": %d}' % n for n in range(5)}
    sent = b"".join(request(b, headers=signed(b, event_id=i)) for i, b in events.items())
    with edge.wire() as wire:
        wire.send(sent + LAST)
        *answers, health = wire.answers()
    rows = stored.ids()
    assert [rows[str(accepted(answer).json["id"])] for answer in answers] == list(events)
    assert health.status == 200
    assert stored.bodies().items() >= events.items()


def test_rule_2_nothing_behind_a_refusal_is_read(edge: EdgeServer, stored: Stored) -> None:
    event_id = new_id()
    behind = request(headers=signed(b"{}", event_id=event_id))
    with edge.wire() as wire:
        wire.send(request(headers=signed(b"{}", secret=OTHER_SECRET)) + behind)
        (answer,) = wire.answers()
    refusal(answer, 401)
    assert event_id not in stored.bodies()
