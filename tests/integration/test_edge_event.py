"""What a stranger's bytes can do to a running receiver: edge rules 6 to 12, behind the body; and
what bytes can do that nobody thought of.
"""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_n8n.core.signing import HmacScheme
from prefect_n8n.receiver.app import PREFIX
from support import edge_server
from support.edge_server import DEADLINE, SLACK, EdgeServer, Stored
from support.wire import (
    HEALTH,
    LAST,
    OTHER_SECRET,
    accepted,
    new_id,
    refusal,
    request,
    signed,
    without,
)

pytestmark = pytest.mark.xdist_group("edge")
running, edge, stored = edge_server.running, edge_server.edge, edge_server.stored

SCHEMES = pytest.mark.parametrize("scheme", [None, HmacScheme()], ids=["standard", "hmac"])
EXAMPLES = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)


# 6: the timestamp


@pytest.mark.parametrize("age", [-3600, -310, 310, 3600])
def test_rule_6_a_time_out_of_tolerance(edge: EdgeServer, age: int) -> None:
    refusal(edge.ask(request(headers=signed(b"{}", at=time.time() + age))), 401)


@pytest.mark.parametrize("age", [-290, 290])
def test_rule_6_a_time_within_tolerance(edge: EdgeServer, age: int) -> None:
    lines = signed(b"{}", event_id=new_id(), at=time.time() + age)
    accepted(edge.ask(request(headers=lines)))


NO_TIMES = [b"", b"now", b"1e9", b"+1700000000", b"-1", b"1700000000.5", b"0x1", b"9" * 13]


@pytest.mark.parametrize("stamp", [*NO_TIMES, b"9" * 5000], ids=lambda stamp: repr(stamp[:14]))
def test_rule_6_what_is_no_time(edge: EdgeServer, stamp: bytes) -> None:
    lines = [*without(b"webhook-timestamp"), b"webhook-timestamp: " + stamp]
    refusal(edge.ask(request(headers=lines)), 401)


# 7: the signature


def test_rule_7_one_flipped_bit_anywhere(edge: EdgeServer, stored: Stored) -> None:
    event_id, body = new_id(), b'{"amount": 1}'
    lines = signed(body, event_id=event_id)
    for at, name in enumerate((b"webhook-id", b"webhook-timestamp", b"webhook-signature"), 1):
        changed = bytearray(lines[at])
        # The last character of base64 is padding.
        changed[-2 if name == b"webhook-signature" else -1] ^= 1
        assert changed.startswith(name)
        refusal(edge.ask(request(body, headers=[*lines[:at], changed, *lines[at + 1 :]])), 401)
    before = stored.bodies()
    refusal(edge.ask(request(body.replace(b"1", b"0"), headers=lines)), 401)
    assert stored.bodies() == before
    accepted(edge.ask(request(body, headers=lines)))
    assert stored.bodies() == before | {event_id: body}


@SCHEMES
def test_rule_7_unknown_endpoint_and_wrong_signature_look_the_same(
    edge: EdgeServer, scheme: HmacScheme | None
) -> None:
    slug = "hmac" if scheme else "orders"
    wrong = signed(b"{}", secret=OTHER_SECRET, scheme=scheme)
    right = signed(b"{}", scheme=scheme)
    cases = [(slug, wrong), (slug, []), *((n, h) for n in ("x", "%00") for h in (wrong, right, []))]
    answers = [
        refusal(edge.ask(request(target=f"{PREFIX}/{name}", headers=lines)), 401)
        for name, lines in cases
    ]
    for answer in answers:
        del answer.headers["date"]
        assert answer == answers[0]


# 8: the content type

OTHER_TYPES = [
    b"",
    b"Content-Type: text/plain",
    b"Content-Type: application/x-www-form-urlencoded",
    b"Content-Type: application/json; charset=utf-16",
    b"Content-Type: application/json, text/html",
    b"Content-Type: application/jsonp",
    b"Content-Type: application/json\r\nContent-Type: application/json",
    b"Content-Type: application/json\xc3\xa9",
]


@pytest.mark.parametrize("line", OTHER_TYPES)
def test_rule_8_other_content_types(edge: EdgeServer, stored: Stored, line: bytes) -> None:
    event_id = new_id()
    refusal(edge.ask(request(headers=[line, *signed(b"{}", event_id=event_id)[1:]])), 415)
    assert event_id not in stored.bodies()
    # Who cannot sign does not learn it.
    refusal(edge.ask(request(headers=[line, *signed(b"{}", secret=OTHER_SECRET)[1:]])), 401)


@pytest.mark.parametrize(
    "kind", [b"Application/JSON", b"application/json;charset=UTF-8", b"application/x.y+json"]
)
def test_rule_8_json_by_its_other_names(edge: EdgeServer, kind: bytes) -> None:
    lines = [b"Content-Type: " + kind, *signed(b"{}", event_id=new_id())[1:]]
    accepted(edge.ask(request(headers=lines)))


# 9: strict JSON

NOT_STRICT = [
    *rb"""
null
[]
"text"
1
{
{} {}
{'a': 1}
{"a": 1,}
{"a": 1} // no
{"a": NaN}
{"a": Infinity}
{"a": -Infinity}
{"a": 1e999}
{"a": 1e-20000}
{"a": 12345678901234567890}
{"a": 1, "a": 2}
{"a": {"b": 1, "\u0062": 2}}
{"a": "\u0000"}
{"\u0000": 1}
{"a": "\ud800"}
{"\udc00": 1}
{"a": "\udc00\ud800"}
{"type": ["a"]}
{"type": "a\u0007"}
""".strip().splitlines(),
    b"",
    b" ",
    b"{}\x00",
    b'{"a": "\x01"}',
    b'{"a": "\xff"}',
    b'{"a": "\xed\xa0\x80"}',
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b'{"a": %b}' % (b"1" * 5000),
    b'{"a": %b%b}' % (b"[" * 64, b"]" * 64),
    b'{"a": ' + b"[" * 16_000,
    b'{"a":' * 3000,
    b'{"type": "%b"}' % (b"a" * 257),
]


@pytest.mark.parametrize("body", NOT_STRICT, ids=lambda body: repr(body[:30]))
def test_rule_9_what_is_not_strict_json(edge: EdgeServer, stored: Stored, body: bytes) -> None:
    event_id = new_id()
    refusal(edge.ask(request(body, headers=signed(body, event_id=event_id))), 400)
    assert event_id not in stored.bodies()


JUST_STRICT = [
    b'{"a": %b%b}' % (b"[" * 63, b"]" * 63),
    b'{"a": "\\ud83d\\ude00", "\\u00e9": "\xc3\xa9"}',
    b'{"a": 1e15, "b": -9223372036854775808, "c": 1E-300, "d": -0.0}',
    b' \r\n\t{"": null} ',
]


@pytest.mark.parametrize("body", JUST_STRICT, ids=lambda body: repr(body[:30]))
def test_rule_9_what_is_just_within_the_limits(
    edge: EdgeServer, stored: Stored, body: bytes
) -> None:
    event_id = new_id()
    accepted(edge.ask(request(body, headers=signed(body, event_id=event_id))))
    assert stored.bodies()[event_id] == body
    assert json.loads(body) in stored.payloads()


# 10 to 12: one event, committed, answered. test_receive_kill.py has the rest.


def test_rule_10_a_replay_is_the_same_event_and_a_change_a_conflict(
    edge: EdgeServer, stored: Stored
) -> None:
    event_id = new_id()
    sent = request(b'{"n": 1}', headers=signed(b'{"n": 1}', event_id=event_id))
    first = accepted(edge.ask(sent))
    assert accepted(edge.ask(sent)).json == first.json | {"duplicate": True}
    refusal(edge.ask(request(b'{"n": 2}', headers=signed(b'{"n": 2}', event_id=event_id))), 409)
    assert stored.bodies()[event_id] == b'{"n": 1}'


def test_rules_11_and_12_what_is_answered_is_committed(edge: EdgeServer, stored: Stored) -> None:
    event_id = new_id()
    answer = accepted(edge.ask(request(headers=signed(b"{}", event_id=event_id))))
    assert stored.ids()[str(answer.json["id"])] == event_id
    assert answer.json["duplicate"] is False
    assert answer.headers["cache-control"] == "no-store"


# What nobody thought of

LINES = rb"""
POST /api/webhooks/n8n/orders HTTP/1.1
GET /healthz HTTP/1.1
GET /healthz HTTP/1.0
CONNECT test:80 HTTP/1.1
PRI * HTTP/2.0
Host: test
Content-Length: 2
Content-Length: 0
Transfer-Encoding: chunked
Connection: Upgrade
Upgrade: websocket
Connection: close
Expect: 100-continue
2
{}
0
""".strip().splitlines()
PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n", b"\x00", b" ", b":", b"{}", HEALTH]),
    st.sampled_from([line + b"\r\n" for line in LINES]),
    st.just(b"\r\n".join([*signed(b"{}", event_id="by-chance"), b""])),
)


@EXAMPLES
@given(data=st.one_of(st.binary(max_size=2000), st.lists(PIECES, max_size=12).map(b"".join)))
def test_any_bytes_are_answered_and_harm_nothing(edge: EdgeServer, data: bytes) -> None:
    started = time.monotonic()
    with edge.wire() as wire:
        wire.send(data + b"\r\n\r\n" + LAST)
        answers = wire.answers()
    assert time.monotonic() - started < DEADLINE + SLACK
    assert answers
    for answer in answers:
        if answer.status >= 300:
            refusal(answer, 400, 401, 404, 405, 408, 415)


@settings(EXAMPLES, max_examples=2)
@given(data=st.lists(st.binary(max_size=500), min_size=60, max_size=60))
def test_no_bytes_hold_a_connection_beyond_the_deadline(
    edge: EdgeServer, data: list[bytes]
) -> None:
    started = time.monotonic()
    wires = [edge.wire() for _ in data]
    for wire, each in zip(wires, data, strict=True):
        wire.send(each)
    for wire in wires:
        assert all(refusal(answer, 400, 408) for answer in wire.answers())
        wire.close()
    assert time.monotonic() - started < DEADLINE + SLACK


VALUES = rb"""
0 -0 1e308 1e-400 1e400 -1E+2 0.1e1 01 .5 1. + NaN true false null "" "\u0000" "\ud800" "\x" [] {}
"\ud83d\ude00" [[[[]]]] {"":{}} 9223372036854775808 12345678901234567890
""".decode().split()
FIELDS = st.tuples(
    st.sampled_from(['"id"', '"type"', '"a"', '"\\u0061"', '"\\ud800"', '""', "a"]),
    st.one_of(
        st.sampled_from(VALUES),
        st.text(max_size=20).map(json.dumps),
        st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False)),
        st.floats().map(json.dumps),
        st.integers().map(str),
    ),
).map(":".join)
DOCUMENTS = st.lists(FIELDS, max_size=5).map(
    lambda fields: ("{" + ",".join(fields) + "}").encode("utf-8", "surrogatepass")
)


@SCHEMES
@EXAMPLES
@given(body=st.one_of(st.binary(max_size=500), DOCUMENTS))
def test_any_signed_body_is_stored_or_refused(
    edge: EdgeServer, stored: Stored, scheme: HmacScheme | None, body: bytes
) -> None:
    target = PREFIX + ("/hmac" if scheme else "/orders")
    lines = signed(body, event_id=new_id(), scheme=scheme)
    answer = edge.ask(request(body, target=target, headers=lines))
    if answer is not None and answer.status == 202:
        row = stored.ids()[str(accepted(answer).json["id"])]
        assert stored.bodies()[row] == body
        assert all(isinstance(payload, dict) for payload in stored.payloads())
    else:
        # 409: the body names an id that an earlier one had.
        refusal(answer, 400, *([409] if scheme else []))
