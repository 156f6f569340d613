"""JSON that has one meaning is accepted; everything else is one condition, soon."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hive.raw_json import RawJson
from server.json_body import (
    MAX_STRUCTURE,
    MalformedJson,
    cut_raw_members,
    cut_raw_paths,
    decode_json,
)

MEBIBYTE = 1024 * 1024

REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "only white space": b" \n",
    "not a number": b"[NaN]",
    "minus NaN": b"[-NaN]",
    "infinity": b"[Infinity]",
    "minus infinity": b"[-Infinity]",
    "inf": b"[inf]",
    "overflow": b"[1e999]",
    "negative overflow": b"[-1e999]",
    "overflow with capital": b"[1E400]",
    "overflow by digits": b"[" + b"9" * 400 + b".0]",
    "huge exponent": b"[1e" + b"9" * 1000 + b"]",
    "2^63": b"9223372036854775808",
    "2^63 deep inside": b'{"a":[{"b":9223372036854775808}]}',
    "-2^63-1": b"-9223372036854775809",
    "2^64+1": b"18446744073709551617",
    "4301 digits": b"9" * 4301,
    "duplicate keys": b'{"a":1,"a":1}',
    "duplicate keys by escape": b'{"a":1,"\\u0061":2}',
    "duplicate empty keys": b'{"":1,"":2}',
    "duplicate keys inside": b'[{"b":{"a":1,"a":2}}]',
    "duplicate __proto__": b'{"__proto__":1,"__proto__":{}}',
    "depth 33 arrays": b"[" * 33 + b"]" * 33,
    "depth 33 objects": b'{"a":' * 33 + b"1" + b"}" * 33,
    "depth 33 mixed": b'[{"a":' * 16 + b"[[1]]" + b"}]" * 16,
    "depth 1000": b"[" * 1000 + b"]" * 1000,
    "depth 100000": b"[" * 100_000 + b"]" * 100_000,
    "depth 100000 unclosed": b"[" * 100_000,
    "objects 100000 unclosed": b'{"a":' * 100_000,
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'"\\udc00"',
    "surrogates swapped": b'"\\udc00\\ud800"',
    "high surrogate and letter": b'"\\ud800a"',
    "high surrogate cut": b'"\\ud800\\u"',
    "raw surrogate": b'"\xed\xa0\x80"',
    "surrogate in key": b'{"\\ud800":1}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32-le"),
    "Latin-1": b'"\xe9"',
    "overlong": b'"\xc0\xaf"',
    "cut UTF-8": b'"\xe2\x82"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "lone continuation": b'"\x80"',
    "trailing value": b"{}{}",
    "trailing letter": b"{}x",
    "trailing comma": b"[1,]",
    "trailing comma in object": b'{"a":1,}',
    "trailing NUL": b"{}\x00",
    "trailing comment": b"{}//",
    "comment": b"/**/{}",
    "hash comment": b"# a\n{}",
    "double comma": b"[1,,2]",
    "leading comma": b"[,1]",
    "only comma": b"[,]",
    "missing comma": b"[1 2]",
    "missing colon": b'{"a" 1}',
    "double colon": b'{"a"::1}',
    "colon in array": b'["a":1]',
    "comma for colon": b'{"a",1}',
    "missing value": b'{"a":}',
    "missing key": b"{:1}",
    "number as key": b"{1:1}",
    "name as key": b"{a:1}",
    "single quotes": b"{'a':1}",
    "unclosed array": b"[1",
    "unclosed object": b'{"a":1',
    "unclosed string": b'"a',
    "closed too often": b"[1]]",
    "crossed brackets": b'[{"a":1]}',
    "wrong closing": b"[1}",
    "leading zero": b"[01]",
    "minus leading zero": b"[-01]",
    "plus": b"[+1]",
    "point first": b"[.5]",
    "point last": b"[1.]",
    "point alone": b"[.]",
    "minus alone": b"[-]",
    "double minus": b"[--1]",
    "minus space": b"[- 1]",
    "empty exponent": b"[1e]",
    "signed empty exponent": b"[1e+]",
    "exponent only": b"[e1]",
    "two points": b"[1.2.3]",
    "two exponents": b"[1e1e1]",
    "hexadecimal": b"[0x1F]",
    "octal": b"[0o17]",
    "underscore": b"[1_000]",
    "letter after number": b"[1a]",
    "full-width digit": "[\uff11]".encode(),
    "capital true": b"[True]",
    "cut true": b"[tru]",
    "long true": b"[truee]",
    "undefined": b"[undefined]",
    "None": b"[None]",
    "raw newline in string": b'"a\nb"',
    "raw tab in string": b'"a\tb"',
    "raw NUL in string": b'"a\x00b"',
    "escaped x": b'"\\x41"',
    "escaped a": b'"\\a"',
    "escaped newline": b'"\\\n"',
    "escaped NUL": b'"\\\x00"',
    "short escape": b'"\\u41"',
    "escape with bad digit": b'"\\u00g0"',
    "escape at end": b'"\\',
    "capital escape": b'"\\U0041"',
    "form feed": b"[\x0c1]",
    "no-break space": b"[\xc2\xa01]",
    "word joiner": b"\xe2\x81\xa0[]",
    "vertical tab": b"[\x0b]",
}

HOSTILE_MEBIBYTES: dict[str, bytes] = {
    "brackets": b"[" * MEBIBYTE,
    "chains of 33": b"[" + b",".join([b"[" * 32 + b"]" * 32] * (MEBIBYTE // 65)) + b"]",
    "empty arrays": b"[" + b",".join([b"[]"] * (MEBIBYTE // 3)) + b"]",
    "100000 keys": b"{" + b",".join(b'"%x":1' % n for n in range(100_000)) + b"}",
    "digits": b"9" * MEBIBYTE,
    "unclosed string": b'"' + b"a" * MEBIBYTE,
    "quotes and brackets": b'["' + b'\\"[' * (MEBIBYTE // 3),
    "backslashes": b'"' + b"\\" * (MEBIBYTE - 1),
    "duplicate key of a mebibyte": b'{"%b":1,"%b":1}' % (b"k" * 500_000, b"k" * 500_000),
}


@pytest.mark.parametrize("encoded", REFUSED.values(), ids=REFUSED.keys())
def test_json_without_one_meaning_is_refused(encoded: bytes) -> None:
    """Each is one condition whose text is short and quotes nothing."""
    with pytest.raises(MalformedJson) as refusal:
        decode_json(encoded)
    assert len(refusal.value.detail) < 120


@pytest.mark.parametrize("encoded", HOSTILE_MEBIBYTES.values(), ids=HOSTILE_MEBIBYTES.keys())
def test_a_hostile_mebibyte_is_refused_soon(encoded: bytes) -> None:
    """Work is bounded: 20 ms, the best of three because the machine does other things, too."""
    took = []
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(MalformedJson) as refusal:
            decode_json(encoded)
        took.append(time.perf_counter() - start)
        assert len(refusal.value.detail) < 120
    assert min(took) <= 0.020


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"null", None),
        (b' {"a" : [1, -2, 0, true] } \r\n\t', {"a": [1, -2, 0, True]}),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1e308", 1e308),
        (b"1e-999", 0.0),
        (b"-0", 0),
        (b'"\\ud83d\\ude00"', "😀"),
        ('"😀é"'.encode(), "😀é"),
        (b'"\\u0000"', "\0"),
        (
            b'{"$where":1,"a.b":2,"":3,"__proto__":4}',
            {"$where": 1, "a.b": 2, "": 3, "__proto__": 4},
        ),
        (b'"' + b"9" * 100 + b'"', "9" * 100),
        (b'"[[[[{{{{::::"', "[[[[{{{{::::"),
    ],
)
def test_json_with_one_meaning_is_accepted(encoded: bytes, value: Any) -> None:
    """What RFC 8259 means arrives."""
    assert decode_json(encoded) == value


@pytest.mark.parametrize(
    "encoded",
    [b"[" * 32 + b"]" * 32, b'{"a":' * 32 + b"1" + b"}" * 32, b"[" * 32 + b"1e1" + b"]" * 32],
)
def test_depth_32_is_accepted(encoded: bytes) -> None:
    """The limit is exact."""
    decode_json(encoded)


def test_brackets_in_a_string_are_no_structure() -> None:
    """A program's text is not mistaken for nesting."""
    text = "[{:" * (MEBIBYTE // 4)
    assert decode_json(b'{"a":"' + text.encode() + b'"}') == {"a": text}


def test_structure_is_bounded_exactly_when_strings_are_few() -> None:
    """So many containers are accepted, one more is refused."""
    decode_json(b"[" + b",".join([b"[]"] * (MAX_STRUCTURE - 1)) + b"]")
    with pytest.raises(MalformedJson):
        decode_json(b"[" + b",".join([b"[]"] * MAX_STRUCTURE) + b"]")


def test_ten_thousand_keys_are_accepted() -> None:
    """Many keys are no attack; only their number with all other structure is bounded."""
    value = {f"k{n}": n for n in range(10_000)}
    assert (
        decode_json(b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(10_000)) + b"}") == value
    )


def test_raw_members_are_the_bytes_that_came() -> None:
    """White space, the spelling of numbers and odd keys survive; other members are decoded."""
    encoded = b'{"name":"n","par\\u0061meters" : { "$x" :1e5, "a.b":9.0,"\\u0000":"\\u0041" } }'
    value = cut_raw_members(encoded, decode_json(encoded), frozenset({"parameters", "result"}))
    assert value == {
        "name": "n",
        "parameters": RawJson(b'{ "$x" :1e5, "a.b":9.0,"\\u0000":"\\u0041" }'),
    }


def test_raw_values_further_inside_are_the_bytes_that_came() -> None:
    """Of a member of a member, and of the members of the items of an array; the rest is decoded."""
    encoded = b'{"task": {"name":"a","parameters": [1.0 ]}, "tasks":[{"parameters": 1e2},{"n":1}]}'
    paths = {("task", "parameters"), ("tasks", "*", "parameters")}
    assert cut_raw_paths(encoded, decode_json(encoded), paths) == {
        "task": {"name": "a", "parameters": RawJson(b"[1.0 ]")},
        "tasks": [{"parameters": RawJson(b"1e2")}, {"n": 1}],
    }
