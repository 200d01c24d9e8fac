"""Strict JSON: what is accepted equals json.loads; every limit holds, whatever the bytes are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_n8n.core.errors import BodyInvalid
from prefect_n8n.core.strict_json import MAX_DEPTH, MAX_DIGITS, MAX_KEYS, parse_object

MIB = 1024 * 1024

NOT_UTF8 = "UTF-8"
NOT_JSON = "not valid JSON"
NOT_OBJECT = "must be a JSON object"
TOO_DEEP = "nested deeper than 64"
TOO_MANY = "more than 10000 keys"
DUPLICATE = "duplicate key"
TOO_LONG = "more than 19 digits"
TOO_LARGE = "too large"
BAD_TEXT = "NUL or a lone surrogate"


def refused(body: bytes, reason: str) -> None:
    with pytest.raises(BodyInvalid) as caught:
        parse_object(body)
    assert reason in str(caught.value)
    assert (caught.value.status, caught.value.code) == (400, "body-invalid")


def storable(value: dict[str, Any]) -> None:
    """Prove that ``value`` can be written again as PostgreSQL needs it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")
    assert "\\u0000" not in text
    json.dumps(value).encode("utf-8")


# What is accepted


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b' \t\r\n{"a" : [ 1 , -2.5e3 , true , false , null , "x" ] } \n',
        '{"é": "日本 \U0001f600"}'.encode(), b'{"a": "\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9"}',
        b'{"": {"": [[], {}]}}', b'{"a": {"x": 1}, "b": {"x": 1}}', b'{"a": 0, "A": -0}',
        b'{"\\\\u0000": "\\\\u0000 \\\\ud800"}', b'{"a": 1e-400, "b": 1e308, "c": 0.1}',
    ],
)  # fmt: skip
def test_good_documents_equal_the_standard_parser(body: bytes) -> None:
    assert parse_object(body) == json.loads(body)


clean_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**MAX_DIGITS) + 1, 10**MAX_DIGITS - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    clean_text,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(clean_text, inner), max_leaves=20
)


@settings(deadline=None)
@given(st.dictionaries(clean_text, values), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_any_good_document_comes_back(
    document: dict[str, Any], ascii_only: bool, indent: int | str | None
) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    parsed = parse_object(text.encode())
    assert parsed == document
    storable(parsed)


# Depth


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    """Return an object that is ``depth`` levels deep, its own level counted."""
    return b'{"a":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth(opening: bytes, closing: bytes) -> None:
    body = nested(MAX_DEPTH, opening, closing)
    assert MAX_DEPTH == 64
    assert parse_object(body) == json.loads(body)
    refused(nested(MAX_DEPTH + 1, opening, closing), TOO_DEEP)
    refused(nested(100_000, opening, closing), TOO_DEEP)
    refused(opening * 100_000, TOO_DEEP)


def test_siblings_are_not_depth() -> None:
    body = b'{"a":[' + b",".join([b"[{}]"] * 1000) + b"]}"
    assert parse_object(body) == json.loads(body)


@pytest.mark.parametrize(
    "text",
    ["[" * 1000, "{" * 1000, "]" * 1000, '"[' * 1000, "\\[" * 1000, '\\"[{' * 1000, "[\\" * 1000],
)
def test_brackets_inside_texts_are_not_counted(text: str) -> None:
    document = {text: text, "after": [[text]]}
    assert parse_object(json.dumps(document).encode()) == document


def test_brackets_after_a_text_with_escapes_are_counted() -> None:
    deep = b"[" * 64 + b"]" * 64
    for text in (b'""', b'"\\\\"', b'"\\""', b'"\\\\\\""', b'"]]]]"', b'"}"'):
        refused(b'{"a":[' + text + b"," + deep + b"]}", TOO_DEEP)


def test_closing_brackets_do_not_buy_depth() -> None:
    with pytest.raises(BodyInvalid):
        parse_object(b"]" * 100_000 + b"[" * 100_000)
    with pytest.raises(BodyInvalid):
        parse_object(b'{"a":1}' + b"]" * 100_000 + b"[" * 100_000)


# Keys


def with_keys(count: int) -> bytes:
    return json.dumps({str(number): 0 for number in range(count)}).encode()


def test_the_number_of_keys() -> None:
    assert MAX_KEYS == 10_000
    assert len(parse_object(with_keys(MAX_KEYS))) == MAX_KEYS
    refused(with_keys(MAX_KEYS + 1), TOO_MANY)


def test_keys_are_counted_over_the_whole_body() -> None:
    rows = [{"k": number} for number in range(MAX_KEYS - 1)]
    assert parse_object(json.dumps({"a": rows}).encode()) == {"a": rows}
    refused(json.dumps({"a": [*rows, {"k": 0}]}).encode(), TOO_MANY)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}', b'{"a":1,"b":2,"a":3}', b'{"x":{"a":1,"a":2}}', b'{"x":[{"":1,"":2}]}',
        b'{"a":1,"\\u0061":2}', '{"é":1,"\\u00e9":2}'.encode(),
    ],
)  # fmt: skip
def test_duplicate_keys(body: bytes) -> None:
    refused(body, DUPLICATE)


# Numbers


@pytest.mark.parametrize("sign", ["", "-"])
def test_long_integers(sign: str) -> None:
    longest = sign + "9" * MAX_DIGITS
    assert MAX_DIGITS == 19
    assert parse_object(f'{{"a":{longest}}}'.encode()) == {"a": int(longest)}
    for digits in (20, 4301, 100_000):
        refused(f'{{"a":[{sign}{"9" * digits}]}}'.encode(), TOO_LONG)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e131071", "1.5E+309", "9" * 400 + ".0"])
def test_numbers_beyond_a_float(number: str) -> None:
    refused(f'{{"a":[{number}]}}'.encode(), TOO_LARGE)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_not_json(name: str) -> None:
    refused(f'{{"a":[{name}]}}'.encode(), f"{name}, which is not JSON")
    refused(name.encode(), f"{name}, which is not JSON")


@pytest.mark.parametrize("number", ["01", "+1", "1.", ".5", "0x1", "1_0", "--1", "nan", "inf", "١"])
def test_numbers_that_are_not_json(number: str) -> None:
    refused(f'{{"a":{number}}}'.encode(), NOT_JSON)


# Texts


BAD_ESCAPES = [
    "\\u0000", "x\\u0000y", "\\ud800", "\\udfff", "\\uD83D", "\\udE00", "\\ud83dx",
    "\\ude00\\ud83d", "\\ud83d\\ud83d\\ude00", "\\ud83d\\\\ude00", "\\ud83d\U0001f600",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_ESCAPES, ids=ascii)
@pytest.mark.parametrize(
    "around",
    [
        '{"a":"%s"}', '{"%s":1}', '{"a":["x","%s"]}', '{"a":[[[{"b":["%s"]}]]]}',
        '{"a":{"b":{"%s":null}}}', '{"a":[{"%s":[]}],"z":1}',
    ],
)  # fmt: skip
def test_nul_and_lone_surrogates(around: str, text: str) -> None:
    refused((around % text).encode(), BAD_TEXT)


@pytest.mark.parametrize("pair", ["\\ud83d\\ude00", "\\uD83D\\uDE00"])
def test_a_surrogate_pair_is_one_character(pair: str) -> None:
    body = f'{{"{pair}":["{pair}\\u00e9"]}}'.encode()
    assert parse_object(body) == {"\U0001f600": ["\U0001f600é"]}


@pytest.mark.parametrize("control", [b"\x00", b"\n", b"\x1f"])
def test_raw_control_characters(control: bytes) -> None:
    refused(b'{"a":"' + control + b'"}', NOT_JSON)
    refused(b'{"' + control + b'":1}', NOT_JSON)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff", b'{"a":"\xff"}', b'{"a":"\xc3"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\x80"}',
        '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-32"), '{"a":"é"}'.encode("latin-1"),
    ],
)  # fmt: skip
def test_not_utf8(body: bytes) -> None:
    refused(body, NOT_UTF8)


def test_other_encodings_are_not_guessed() -> None:
    refused('{"a":1}'.encode("utf-16-le"), NOT_JSON)
    refused(b"\xef\xbb\xbf" + b'{"a":1}', NOT_JSON)


# Shape


@pytest.mark.parametrize(
    "body", [b"[]", b'[{"a":1}]', b"1", b"1.5", b'"a"', b"true", b"false", b"null"]
)
def test_only_an_object_will_do(body: bytes) -> None:
    refused(body, NOT_OBJECT)


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"\n", b"{", b"}", b"{}{}", b"{},", b"{'a':1}", b'{"a"}', b'{"a":}', b'{"a":1,}',
        b'{"a":1}x', b"{a:1}", b'{"a":[1}', b'{"a":1]', b'{"a":"\\x"}', b'{"a":"\\u12"}',
        b'{"a":"', b'{"a":"\\', b'{"a":"\\"}', b"{}\x00", b"{}//", b"undefined", b"a=1&b=2",
    ],
)  # fmt: skip
def test_not_json(body: bytes) -> None:
    refused(body, NOT_JSON)


@pytest.mark.parametrize(
    "unit",
    [b'"', b"\\", b'"\\', b'\\"', b'""\\', b'"a', b'{"', b'["', b" ", b"-", b"9", b"\\u", b"]"],
)
@pytest.mark.parametrize("start", [b"", b'{"a":"', b'{"a":'])
def test_a_mebibyte_of_one_thing_ends(start: bytes, unit: bytes) -> None:
    """A scan of more than one pass would run for hours here."""
    with pytest.raises(BodyInvalid):
        parse_object(start + unit * (MIB // len(unit)))


def test_the_message_does_not_repeat_the_body() -> None:
    for body in (b'{"hunter2":1,"hunter2":2}', b'{"a":hunter2}', b'{"hunter2":"\\u0000"}'):
        with pytest.raises(BodyInvalid) as caught:
            parse_object(body)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None


# Anything at all


FRAGMENTS = [
    b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"1", b"-", b"1e400", b"NaN", b'"a"', b'"a":1',
    b"\\u0000", b"\\ud800", b"\\udc00", b"true", b"null", b" ", b"\xff", b"\xc3\xa9",
    b"\xef\xbb\xbf", b"\x00", b"9" * 20, b'"\\u0000"', b'"\\ud800"', b'"k":',
]  # fmt: skip
pieces = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=4)), max_size=30)
bodies = st.one_of(
    st.binary(),
    pieces.map(b"".join),
    pieces.map(lambda parts: b'{"a":"' + b"".join(parts) + b'"}'),
    pieces.map(lambda parts: b'{"a":[' + b",".join(parts) + b"]}"),
)


@settings(deadline=None)
@given(bodies)
@example(b'{"a":"\\ud800"}')
@example(b'{"a":1e999}')
def test_arbitrary_bytes(body: bytes) -> None:
    try:
        value = parse_object(body)
    except BodyInvalid:
        return
    storable(value)
    assert value == json.loads(body)
