"""What a stranger's bytes can do to a running receiver: edge rules 3 to 5, up to the body's end."""

from __future__ import annotations

import gzip
import socket
import time

import pytest

from support import edge_server
from support.edge_server import DEADLINE, MAX_BODY, SLACK, EdgeServer, Stored
from support.wire import (
    CHUNKED,
    HEALTH,
    PATIENCE,
    accepted,
    chunked,
    chunks,
    new_id,
    refusal,
    request,
    signed,
    without,
)

pytestmark = pytest.mark.xdist_group("edge")
running, edge, stored = edge_server.running, edge_server.edge, edge_server.stored


# 3: the signature's headers, before the body


def twice(name: bytes) -> list[bytes]:
    """The header lines of a signed event, one of them repeated."""
    return [line for line in signed(b"{}") for _ in range(1 + line.startswith(name))]


ID, STAMP, SIGNATURE = b"webhook-id", b"webhook-timestamp", b"webhook-signature"
UNSIGNED = [
    [],
    without(ID),
    without(STAMP),
    without(SIGNATURE),
    twice(ID),
    twice(STAMP),
    twice(SIGNATURE),
    [line.replace(b"webhook-", b"webhook_") for line in signed(b"{}")],
    [*without(ID), b"webhook-id: "],
    [*without(ID), b"webhook-id: a b"],
    [*without(ID), b"webhook-id: " + b"a" * 257],
    [*without(ID), b"webhook-id: \xc3\xa9"],
    [*without(SIGNATURE), b"webhook-signature: v1,"],
    [*without(SIGNATURE), b"webhook-signature: v1,\xc3\xa9"],
    [*without(SIGNATURE), b"webhook-signature: v1 , x"],
    [*without(SIGNATURE), b"webhook-signature: " + b"v1,eA== " * 11],
    [*without(SIGNATURE), b"Authorization: Bearer x"],
]


@pytest.mark.parametrize("lines", UNSIGNED, ids=range(len(UNSIGNED)))
def test_rule_3_is_checked_before_the_body_has_come(edge: EdgeServer, lines: list[bytes]) -> None:
    head = request(headers=lines, length=b"Content-Length: 16000").removesuffix(b"{}")
    # And not 408, which it would be at the deadline.
    answer = refusal(edge.ask(head), 401)
    assert answer.headers["connection"] == "close"


def test_rule_3_trailers_are_not_headers(edge: EdgeServer, stored: Stored) -> None:
    event_id, body = new_id(), b'{"late": true}'
    lines = signed(body, event_id=event_id)
    for late in lines[1:]:
        early = [line for line in lines if line is not late]
        head = request(body, headers=early, length=CHUNKED).removesuffix(body)
        refusal(edge.ask(head + chunks(body) + late + b"\r\n\r\n"), 401)
    assert event_id not in stored.bodies()
    # One that is there already is not replaced either.
    trailers = b"webhook-id: forged\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\n\r\n"
    accepted(edge.ask(chunked(body, chunks(body) + trailers, event_id)))
    assert stored.bodies()[event_id] == body
    assert "forged" not in stored.bodies()


def test_rule_3_a_header_behind_the_head_is_body(edge: EdgeServer) -> None:
    *lines, late = signed(b"{}")
    refusal(edge.ask(request(late + b"\r\n\r\n{}", headers=lines)), 401)


def test_rule_3_nobody_is_told_to_continue_before(edge: EdgeServer, stored: Stored) -> None:
    event_id = new_id()
    lines = [*signed(b"{}", event_id=event_id), b"Expect: 100-continue"]
    with edge.wire() as wire:
        wire.send(request(headers=lines[1:3] + lines[4:]).removesuffix(b"{}"))
        (answer,) = wire.answers()
    refusal(answer, 401)
    with edge.wire() as wire:
        wire.send(request(headers=lines).removesuffix(b"{}"))
        go_on = wire.answer()
        assert go_on is not None
        assert go_on.status == 100
        assert event_id not in stored.bodies()
        wire.send(b"{}")
        accepted(wire.answer())


# 4: the content encoding

ENCODED = [b"gzip", b"br", b"identity, gzip", b"identity\r\nContent-Encoding: identity", b""]


@pytest.mark.parametrize("encoding", ENCODED)
def test_rule_4_no_encoded_body_is_read(edge: EdgeServer, encoding: bytes) -> None:
    body = gzip.compress(b"{}")
    sent = request(body, headers=[*signed(body), b"Content-Encoding: " + encoding])
    refusal(edge.ask(sent.removesuffix(body)), 415)


def test_rule_4_identity_is_no_encoding(edge: EdgeServer) -> None:
    lines = [*signed(b"{}", event_id=new_id()), b"Content-Encoding: Identity"]
    accepted(edge.ask(request(headers=lines)))


# 5: the body's bytes and its time


@pytest.mark.parametrize("pieces", [0, 1, 3, 400])
@pytest.mark.parametrize("size", [MAX_BODY, MAX_BODY + 1])
def test_rule_5_the_limit_counts_the_bytes_that_come(
    edge: EdgeServer, stored: Stored, pieces: int, size: int
) -> None:
    body = b'{"a": "%b"}' % (b"x" * (size - 9))
    event_id = new_id()
    if pieces:
        step = size // pieces + 1
        parts = [body[at : at + step] for at in range(0, size, step)]
        answer = edge.ask(chunked(body, chunks(*parts) + b"\r\n", event_id))
    else:
        answer = edge.ask(request(body, headers=signed(body, event_id=event_id)))
    if size > MAX_BODY:
        refusal(answer, 413)
        assert event_id not in stored.bodies()
    else:
        accepted(answer)
        assert stored.bodies()[event_id] == body


@pytest.mark.parametrize("length", [b"Content-Length: 99999999999", CHUNKED])
def test_rule_5_a_larger_body_is_refused_before_its_end(edge: EdgeServer, length: bytes) -> None:
    head = request(length=length).removesuffix(b"{}")
    size = b"fffffffff\r\n" if length is CHUNKED else b""
    refusal(edge.ask(head, size, b"x" * (MAX_BODY + 1)), 413)


def test_rule_5_a_length_over_the_limit_is_refused_at_once(edge: EdgeServer) -> None:
    """Not at the deadline, and without asking for the body."""
    for length, status in ((MAX_BODY + 1, 413), (99_999_999_999, 413), (MAX_BODY, 408)):
        lines = [*signed(b"{}"), b"Expect: 100-continue"][: 6 if status == 413 else -1]
        line = b"Content-Length: %d" % length
        refusal(edge.ask(request(headers=lines, length=line).removesuffix(b"{}")), status)


def test_rule_5_a_length_that_lies(edge: EdgeServer, stored: Stored) -> None:
    event_id, body = new_id(), b'{"n": 1}'
    lines = signed(body, event_id=event_id)
    # Too short: the body is cut, and its rest is not served as another request.
    with edge.wire() as wire:
        wire.send(request(body + HEALTH, headers=lines, length=b"Content-Length: 7"))
        (answer,) = wire.answers()
    refusal(answer, 401)
    # None at all: there is no body.
    refusal(edge.ask(request(body, headers=lines, length=b"X: y")), 401)
    # Too long, and the sender goes away.
    with edge.wire() as wire:
        wire.send(request(body, headers=lines, length=b"Content-Length: 9"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.answers() == []
    assert event_id not in stored.bodies()


NO_CHUNKS = [
    b"-2\r\n{}\r\n0\r\n\r\n",
    b"0x2\r\n{}\r\n0\r\n\r\n",
    b"2_\r\n{}\r\n0\r\n\r\n",
    b" 2\r\n{}\r\n0\r\n\r\n",
    b"\xd9\xa2\r\n{}\r\n0\r\n\r\n",
    b"zz\r\n{}\r\n0\r\n\r\n",
    b"\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}0\r\n\r\n",
    b"2\r\n{}XX0\r\n\r\n",
    b"1\r\n{}\r\n0\r\n\r\n",
    b"f" * 30 + b"\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0\r\nno colon\r\n\r\n",
    b"2;" + b"x" * 500_000,
    b"2\r\n{}\r\n0\r\nX-A: " + b"a" * 500_000,
]


@pytest.mark.parametrize("encoded", NO_CHUNKS, ids=lambda encoded: repr(encoded[:24]))
def test_rule_5_chunks_that_are_none(edge: EdgeServer, stored: Stored, encoded: bytes) -> None:
    event_id = new_id()
    with edge.wire() as wire:
        wire.send(chunked(b"{}", encoded, event_id) + HEALTH)
        (answer,) = wire.answers()
    refusal(answer, 400)
    assert event_id not in stored.bodies()


def test_rule_5_a_bad_chunk_behind_an_answer_gets_no_second_one(edge: EdgeServer) -> None:
    with edge.wire() as wire:
        wire.send(request(target="/nothing", length=CHUNKED).removesuffix(b"{}"))
        refusal(wire.answer(), 404)
        wire.send(b"zz\r\n" + HEALTH)
        assert wire.answers() == []


_CHUNKED_HEAD = request(length=CHUNKED).removesuffix(b"{}")
_LONG = request(length=b"Content-Length: 9000")
SLOW = {
    "a request line": (b"POST /api", b"x"),
    "a header": (b"POST / HTTP/1.1\r\nHost: test", b"x"),
    "headers": (b"POST / HTTP/1.1\r\nHost: test\r\n", b"X-A: a\r\n"),
    "a body": (_LONG, b"x"),
    "a chunk": (_CHUNKED_HEAD + b"2000\r\n", b"x"),
    "chunks": (_CHUNKED_HEAD, b"1\r\nx\r\n"),
    "a chunk's size": (_CHUNKED_HEAD, b"0"),
    "trailers": (_CHUNKED_HEAD + b"0\r\n", b"X-A: a\r\n"),
    "a second request": (HEALTH + b"POST", b"x"),
    "a second body": (HEALTH + _LONG, b"x"),
    "a body behind its answer": (_LONG.replace(b"orders", b"x/y"), b"x"),
}


def test_rule_5_a_slow_request_ends_at_the_deadline(edge: EdgeServer) -> None:
    """All at once, a byte or line after the other: what comes does not extend the time."""
    started = time.monotonic()
    wires = {name: edge.wire() for name in SLOW}
    for name, wire in wires.items():
        wire.send(SLOW[name][0])
    answers: dict[str, list[int]] = {name: [] for name in SLOW}
    waiting = set(SLOW)
    while waiting:
        assert time.monotonic() - started < DEADLINE + SLACK, waiting
        for name in sorted(waiting):
            if wires[name].silent(0.01):
                wires[name].send(SLOW[name][1])
            elif (answer := wires[name].answer()) is None:
                assert time.monotonic() - started >= DEADLINE
                waiting.discard(name)
                wires[name].close()
            else:
                answers[name].append(answer.status)
                assert answer.status == 200 or refusal(answer, 404, 408)
    late = answers.pop("a second request"), answers.pop("a second body")
    assert late == ([200, 408], [200, 408])
    assert answers.pop("a body behind its answer") == [404]
    assert all(got == [408] for got in answers.values()), answers


def test_rule_5_a_connection_without_a_request_ends_without_an_answer(edge: EdgeServer) -> None:
    with edge.wire() as wire:
        assert wire.answers() == []


def test_rule_5_a_client_that_does_not_read_is_dropped(edge: EdgeServer) -> None:
    many = request(b"", method="GET", target="/nothing", headers=[]) * 200_000
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", edge.port))
        with pytest.raises(ConnectionError):
            client.sendall(many)
