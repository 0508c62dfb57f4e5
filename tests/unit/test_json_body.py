"""Bodies: each that cannot be read is refused with a sentence that is true."""

from __future__ import annotations

import gzip
import json

import pytest

from services.api.json_body import MAX_DEPTH, MAX_DIGITS, Number, read_json
from shared.errors import PermanentError


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        (b"", "malformed_body", "is empty"),
        (b" \n", "malformed_body", "is empty"),
        ('{"a": 1}'.encode("utf-16"), "malformed_body", "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "malformed_body", "UTF-16"),
        ('{"a": 1}'.encode("utf-32"), "malformed_body", "UTF-32"),
        ('{"a": "é"}'.encode("latin-1"), "malformed_body", r"not in UTF-8 \(byte 7\)"),
        (gzip.compress(b"{}", mtime=0), "malformed_body", "not in UTF-8"),
        (b'{"a": \x00}', "malformed_json", "line 1, column 7"),
        (b'{"a": 1,}', "malformed_json", "line 1, column"),
        (b"{'a': 1}", "malformed_json", "line 1, column 2"),
        (b'{"a": 01}', "malformed_json", "line 1, column 8"),
        (b'{"a": 0x10}', "malformed_json", "line 1, column 8"),
        (b'{"a": +1}', "malformed_json", "line 1, column 7"),
        (b'{"a": .5}', "malformed_json", "line 1, column 7"),
        (b'{"a": 1} {"a": 2}', "malformed_json", "Extra data at line 1, column 10"),
        (b'{"a": "line\nbreak"}', "malformed_json", "Invalid control character"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "malformed_json", "'c' twice"),
        (b'{"a": ' + b"9" * (MAX_DIGITS + 1) + b"}", "malformed_json", f"the maximum is {MAX_DIGITS}"),
        (b"9" * 5_000, "malformed_json", "5000 digits"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "malformed_json", f"more than {MAX_DEPTH}"),
        (b'{"a":' * 1_000 + b"1" + b"}" * 1_000, "malformed_json", f"more than {MAX_DEPTH}"),
        (b"[" * 100_000, "malformed_json", f"more than {MAX_DEPTH}"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_the_reason(body: bytes, code: str, sentence: str) -> None:
    with pytest.raises(PermanentError, match=sentence) as refused:
        read_json(body)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
        (b"9" * MAX_DIGITS, int("9" * MAX_DIGITS)),
        (b'{"a": [1e2, -0.5]}', {"a": [100.0, -0.5]}),
    ],
)
def test_any_other_body_is_read(body: bytes, value: object) -> None:
    assert read_json(body) == value


def test_a_number_keeps_the_digits_that_a_float_loses() -> None:
    number = read_json(b"0.12345678901234567890")
    assert isinstance(number, Number)
    assert number.text == "0.12345678901234567890"
