"""Signatures: both schemes against independent HMACs, and everything that must be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_n8n.core.errors import BodyInvalid, SignatureInvalid
from prefect_n8n.core.signing import (
    MAX_SIGNATURES,
    TOLERANCE_SECONDS,
    HmacScheme,
    Proof,
    Scheme,
    StandardScheme,
    claim_of,
    secret_bytes,
    sign,
    verify,
)
from prefect_n8n.core.strict_json import parse_object

NOW = 1_700_000_000
BODY = b'{"order": 7, "note": "caf\xc3\xa9"}'
SECRET = b"a secret of at least 24 bytes"
OTHER = b"another secret, long enough!!"
MESSAGE = "The signature is missing or not valid."

STANDARD = StandardScheme()
HEX = HmacScheme()
BASE64 = HmacScheme(encoding="base64", prefix=b"")
UNTIMED = HmacScheme(timestamp_header=None)
REQUIRED = HmacScheme(timestamp_required=True)
SCHEMES = [STANDARD, HEX, BASE64, UNTIMED, REQUIRED]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: repr(s)[:60])

Pairs = list[tuple[bytes, bytes]]


def signed(scheme: Scheme, *, secret: bytes = SECRET, timestamp: int = NOW) -> Pairs:
    return sign(scheme, secret, BODY, event_id="msg_1", timestamp=timestamp)


def check(scheme: Scheme, headers: Pairs, body: bytes = BODY, **changed: Any) -> Proof:
    arguments: dict[str, Any] = {"secrets": [SECRET], "now": NOW, **changed}
    return verify(claim_of(scheme, headers), body, arguments["secrets"], now=arguments["now"])


def refused(scheme: Scheme, headers: Pairs, body: bytes = BODY, **changed: Any) -> None:
    with pytest.raises(SignatureInvalid) as caught:
        check(scheme, headers, body, **changed)
    assert str(caught.value) == MESSAGE
    assert (caught.value.status, caught.value.code) == (401, "signature-invalid")


def replaced(headers: Pairs, name: bytes, value: bytes) -> Pairs:
    return [(key, value if key == name else old) for key, old in headers]


def value_of(headers: Pairs, name: bytes) -> bytes:
    return dict(headers)[name]


# Vectors


def standard_headers(key: bytes, event_id: bytes, stamp: bytes, body: bytes) -> Pairs:
    digest = hmac.new(key, event_id + b"." + stamp + b"." + body, hashlib.sha256).digest()
    signature = b"v1," + base64.b64encode(digest)
    return [
        (b"webhook-id", event_id),
        (b"webhook-timestamp", stamp),
        (b"webhook-signature", signature),
    ]


def test_published_standard_webhooks_vector() -> None:
    """The vector of the reference libraries' own tests (standard-webhooks, ``test_sign``)."""
    key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    event_id, stamp, body = b"msg_p5jXN8AQM9LWM0D4loKWxJek", b"1614265330", b'{"test": 2432232314}'
    headers = standard_headers(key, event_id, stamp, body)
    expected = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert value_of(headers, b"webhook-signature") == expected
    assert headers == sign(STANDARD, key, body, event_id=event_id.decode(), timestamp=int(stamp))
    proof = check(STANDARD, headers, body, secrets=[key], now=int(stamp))
    assert proof == Proof(event_id.decode(), int(stamp))


@pytest.mark.parametrize("body", [b"", b"{}", b"\x00\xff\xfe", BODY * 1000])
def test_standard_agrees_with_an_independent_hmac(body: bytes) -> None:
    headers = standard_headers(SECRET, b"evt-9.x", str(NOW).encode(), body)
    assert check(STANDARD, headers, body) == Proof("evt-9.x", NOW)


@pytest.mark.parametrize("upper", [False, True])
def test_hex_hmac_over_the_body_alone(upper: bool) -> None:
    digest = hmac.new(SECRET, BODY, hashlib.sha256).hexdigest()
    text = digest.upper() if upper else digest
    assert check(HEX, [(b"x-n8n-signature", b"sha256=" + text.encode())]) == Proof(None, None)


def test_base64_hmac_over_timestamp_and_body() -> None:
    text = str(NOW).encode() + b"." + BODY
    value = base64.b64encode(hmac.new(SECRET, text, hashlib.sha256).digest())
    headers = [(b"x-n8n-signature", value), (b"x-n8n-timestamp", str(NOW).encode())]
    assert check(BASE64, headers) == Proof(None, NOW)


def test_base64_is_case_sensitive() -> None:
    headers = signed(BASE64)
    value = value_of(headers, b"x-n8n-signature")
    refused(BASE64, replaced(headers, b"x-n8n-signature", value.swapcase()))


# Round trips


@every_scheme
def test_round_trip(scheme: Scheme) -> None:
    expected_id = "msg_1" if isinstance(scheme, StandardScheme) else None
    expected_time = None if scheme is UNTIMED else NOW
    assert check(scheme, signed(scheme)) == Proof(expected_id, expected_time)


@settings(deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    secret=st.binary(min_size=1),
    body=st.binary(),
    event_id=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1),
    timestamp=st.integers(0, 10**12 - 1),
)
def test_everything_signed_verifies(
    scheme: Scheme, secret: bytes, body: bytes, event_id: str, timestamp: int
) -> None:
    headers = sign(scheme, secret, body, event_id=event_id, timestamp=timestamp)
    check(scheme, headers, body, secrets=[secret], now=timestamp)


# Secrets and signatures


@every_scheme
@pytest.mark.parametrize("secrets", [[SECRET, OTHER], [OTHER, SECRET]])
def test_any_live_secret_proves(scheme: Scheme, secrets: list[bytes]) -> None:
    check(scheme, signed(scheme), secrets=secrets)


@every_scheme
@pytest.mark.parametrize("secrets", [[], [OTHER], [b""], [b"", OTHER], [SECRET + b" "]])
def test_no_other_secret_proves(scheme: Scheme, secrets: list[bytes]) -> None:
    refused(scheme, signed(scheme), secrets=secrets)


@every_scheme
def test_an_empty_secret_proves_nothing(scheme: Scheme) -> None:
    """Anyone can sign with an empty key."""
    refused(scheme, signed(scheme, secret=b""), secrets=[b""])
    refused(scheme, signed(scheme, secret=b""), secrets=[SECRET, b""])


def several(*tokens: bytes) -> Pairs:
    return replaced(signed(STANDARD), b"webhook-signature", b" ".join(tokens))


def test_one_right_signature_among_several() -> None:
    right = value_of(signed(STANDARD), b"webhook-signature")
    wrong = value_of(signed(STANDARD, secret=OTHER), b"webhook-signature")
    for tokens in ([right, wrong], [wrong, right], [b"v1a,AAAA", right], [right, right]):
        check(STANDARD, several(*tokens))
    check(STANDARD, several(*[wrong] * (MAX_SIGNATURES - 1), right))


def test_several_wrong_signatures() -> None:
    right = value_of(signed(STANDARD), b"webhook-signature")
    wrong = value_of(signed(STANDARD, secret=OTHER), b"webhook-signature")
    refused(STANDARD, several(wrong, wrong))
    refused(STANDARD, several(*[wrong] * MAX_SIGNATURES, right))
    for version in (b"v1a,", b"v2,", b"v11,", b"v0,"):
        refused(STANDARD, several(version + right[3:]))


# Tampering


def flips(data: bytes) -> list[bytes]:
    return [
        data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
        for place in range(len(data))
        for bit in range(8)
    ]


@every_scheme
def test_a_flipped_bit_of_the_body(scheme: Scheme) -> None:
    for body in (*flips(BODY), BODY[:-1], BODY + b"\n", b""):
        refused(scheme, signed(scheme), body)


def same_hex(scheme: Scheme, name: bytes, old: bytes, new: bytes) -> bool:
    """Tell whether ``new`` is the same hex number in the other case, which is no change."""
    is_hex = isinstance(scheme, HmacScheme) and scheme.encoding == "hex"
    start = len(HEX.prefix)
    same = old[:start] == new[:start] and old[start:] == new[start:].lower()
    return is_hex and name == b"x-n8n-signature" and same


@every_scheme
def test_a_flipped_bit_of_any_header(scheme: Scheme) -> None:
    headers = signed(scheme)
    for name, value in headers:
        for changed in flips(value):
            if not same_hex(scheme, name, value, changed):
                refused(scheme, replaced(headers, name, changed))


@every_scheme
def test_a_flipped_bit_of_the_secret(scheme: Scheme) -> None:
    for secret in flips(SECRET):
        refused(scheme, signed(scheme), secrets=[secret])


@every_scheme
def test_a_cut_or_longer_signature(scheme: Scheme) -> None:
    headers = signed(scheme)
    name = scheme.signature_header
    value = value_of(headers, name)
    for changed in (value[:-1], value + b"0", value + b"=", value[: len(value) // 2], b""):
        refused(scheme, replaced(headers, name, changed))


def test_a_timestamp_cut_off() -> None:
    """``timestamp.body`` sent as the body itself does verify, but can never be an object."""
    headers = signed(HEX)
    moved = str(NOW).encode() + b"." + BODY
    refused(HEX, headers[:1])
    refused(REQUIRED, headers[:1], moved)
    assert check(HEX, headers[:1], moved) == Proof(None, None)
    with pytest.raises(BodyInvalid):
        parse_object(moved)


# Headers


@every_scheme
def test_every_header_is_needed(scheme: Scheme) -> None:
    headers = signed(scheme)
    for name, _ in headers:
        refused(scheme, [pair for pair in headers if pair[0] != name])
    refused(scheme, [])


@every_scheme
def test_no_header_may_be_repeated(scheme: Scheme) -> None:
    headers = signed(scheme)
    for name, value in headers:
        for second in (value, b"", b"other"):
            refused(scheme, [*headers, (name, second)])
            refused(scheme, [(name, second), *headers])


@every_scheme
def test_other_headers_do_not_matter(scheme: Scheme) -> None:
    check(scheme, [(b"x", b"\xff"), *signed(scheme), (b"x", b""), (b"\xe9", b"\x00")])


ODD_VALUES = [
    b"", b" ", b"v1", b"v1,", b",", b"v1,a,b", b"v1,!!", b"v1,AAAA  v1,AAAA", b" v1,AAAA",
    b"v1,AAAA ", b"v1,AAAA\n", b"v1,\xff\xfe", "v1,é".encode(), b"v1,\x00", b"v1," + b"A" * 257,
    b"v1000,AAAA", b"sha256", b"sha256=", b"SHA256=00", b"sha256=\xff", "sha256=\uff10".encode(),
    b"sha256=zz", b"sha256= 00", b"sha256=00\n", b"sha256=" + b"0" * 10_000, b"\x00", b"\xff" * 64,
]  # fmt: skip


@every_scheme
@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda v: repr(v)[:30])
def test_odd_signature_values(scheme: Scheme, value: bytes) -> None:
    refused(scheme, replaced(signed(scheme), scheme.signature_header, value))


@pytest.mark.parametrize(
    "event_id",
    [b"", b"a b", b"a\n", b"msg_1\n", b"\x00", "é".encode(), b"\xff", b"\x7f", b"x" * 257],
)
def test_odd_event_ids(event_id: bytes) -> None:
    refused(STANDARD, standard_headers(SECRET, event_id, str(NOW).encode(), BODY))


def test_the_longest_event_id() -> None:
    event_id = b"x" * 256
    headers = standard_headers(SECRET, event_id, str(NOW).encode(), BODY)
    assert check(STANDARD, headers).event_id == event_id.decode()


# Timestamps


TIMED = [STANDARD, HEX, BASE64, REQUIRED]
every_timed = pytest.mark.parametrize("scheme", TIMED, ids=lambda s: repr(s)[:60])


@every_timed
@pytest.mark.parametrize("sign_of", [-1, 1])
def test_tolerance_ends_at_the_boundary(scheme: Scheme, sign_of: int) -> None:
    assert TOLERANCE_SECONDS == 300
    edge = NOW + sign_of * TOLERANCE_SECONDS
    assert check(scheme, signed(scheme), now=edge).timestamp == NOW
    refused(scheme, signed(scheme), now=edge + sign_of)
    refused(scheme, signed(scheme), now=edge + sign_of * 0.001)


def test_without_a_timestamp_there_is_no_window() -> None:
    assert check(UNTIMED, signed(UNTIMED), now=NOW + 10**9) == Proof(None, None)


def stamped(scheme: Scheme, stamp: bytes) -> Pairs:
    """Sign ``stamp`` rightly, so that only its shape can be the reason to refuse it."""
    if isinstance(scheme, StandardScheme):
        return standard_headers(SECRET, b"msg_1", stamp, BODY)
    digest = hmac.new(SECRET, stamp + b"." + BODY, hashlib.sha256).digest()
    text = digest.hex().encode() if scheme.encoding == "hex" else base64.b64encode(digest)
    return [(b"x-n8n-signature", scheme.prefix + text), (b"x-n8n-timestamp", stamp)]


@every_timed
@pytest.mark.parametrize(
    "shape",
    [b"", b" %d", b"%d ", b"%d\n", b"+%d", b"-%d", b"%d.0", b"%de0", b"1_%d", b"000%d", b"0x%x"],
)
def test_timestamp_shape(scheme: Scheme, shape: bytes) -> None:
    stamp = shape % NOW if b"%" in shape else shape
    check(scheme, stamped(scheme, b"%d" % NOW))
    refused(scheme, stamped(scheme, stamp))


@every_timed
def test_timestamp_of_other_digits(scheme: Scheme) -> None:
    arabic = "".join(chr(0x0660 + int(digit)) for digit in str(NOW))
    for stamp in (arabic.encode(), b"\xff" * 10, b"9" * 13, b"9" * 5000, b"nan", b"inf"):
        refused(scheme, stamped(scheme, stamp))


# Anything at all


NAMES = [b"webhook-id", b"webhook-timestamp", b"webhook-signature"]
NAMES += [b"x-n8n-signature", b"x-n8n-timestamp"]
near_values = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([*ODD_VALUES, str(NOW).encode(), b"v1,AAAA", b"sha256=" + b"a" * 64]),
)
pairs = st.tuples(st.one_of(st.sampled_from(NAMES), st.binary(max_size=20)), near_values)
any_headers = st.one_of(
    st.lists(pairs, max_size=8),
    st.tuples(*[st.tuples(st.just(name), near_values) for name in NAMES]).map(list),
)


@settings(deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    headers=any_headers,
    body=st.binary(),
    secrets=st.lists(st.binary(), max_size=3),
)
def test_arbitrary_bytes_raise_only_signature_invalid(
    scheme: Scheme, headers: Pairs, body: bytes, secrets: list[bytes]
) -> None:
    refused(scheme, headers, body, secrets=secrets)


shaped_values = {
    b"webhook-id": st.from_regex(rb"[\x21-\x7e]{1,20}", fullmatch=True),
    b"webhook-timestamp": st.from_regex(rb"[0-9]{1,12}", fullmatch=True),
    b"webhook-signature": st.from_regex(rb"v1,[A-Za-z0-9+/=]{1,50}", fullmatch=True),
    b"x-n8n-signature": st.from_regex(rb"sha256=[\x21-\x7e]{1,70}", fullmatch=True),
    b"x-n8n-timestamp": st.from_regex(rb"[0-9]{1,12}", fullmatch=True),
}


@settings(deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    headers=st.fixed_dictionaries(shaped_values),
    body=st.binary(),
    secrets=st.lists(st.binary(), max_size=3),
    now=st.floats(0, 1e12),
)
def test_well_formed_claims_of_a_stranger_are_refused(
    scheme: Scheme, headers: dict[bytes, bytes], body: bytes, secrets: list[bytes], now: float
) -> None:
    claim_of(scheme, list(headers.items()))
    refused(scheme, list(headers.items()), body, secrets=secrets, now=now)
