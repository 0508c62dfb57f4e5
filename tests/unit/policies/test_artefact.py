"""Artefacts: read as written, refused when damaged or foreign."""

from __future__ import annotations

import io
import json
import math
import zipfile
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from shared.domain.artefacts import ModelIds
from shared.policies import artefact
from shared.policies.artefact import Artefact, BadArtefact

ARRAYS = {"weights": np.arange(6.0).reshape(2, 3), "cut": np.array(0.5)}

CARD: dict[str, Any] = {
    "policy": "aggregate",
    "models": ModelIds(small="s@1", large="l@1", prm="p@1"),
    "data": {"problems": 500},
    "settings": {"seed": 1},
    "metrics": {"apgr": 0.9},
    "created_at": datetime(2026, 1, 2, tzinfo=UTC),
    "command": "trim policies train aggregate",
}


def make() -> Artefact:
    return Artefact.make(ARRAYS, **CARD)


def test_an_artefact_is_read_as_it_was_written() -> None:
    made = make()
    read = Artefact.read(*made.encode())
    assert read.card == made.card
    assert read.digest == made.digest
    assert read.encode() == made.encode()
    assert {name: array.tolist() for name, array in read.arrays.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }


def test_the_digest_depends_on_the_arrays_and_on_the_card() -> None:
    other_arrays = Artefact.make(ARRAYS | {"cut": np.array(0.6)}, **CARD)
    other_card = Artefact.make(ARRAYS, **CARD | {"policy": "pomdp"})
    assert len({each.digest for each in (make(), other_arrays, other_card)}) == 3


def test_a_fit_that_is_repeated_later_with_the_same_result_is_the_same_artefact() -> None:
    later = Artefact.make(ARRAYS, **CARD | {"created_at": datetime(2026, 1, 3, tzinfo=UTC)})
    assert later.encode() != make().encode()
    assert later.digest == make().digest


def test_arrays_have_the_shape_that_is_asked_for() -> None:
    made = make()
    assert made.array("weights", 2, -1).shape == (2, 3)
    assert made.array("cut").shape == ()


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("bias", (2,), "no array 'bias'"),
        ("weights", (3, 2), "should hold 3x2 finite numbers"),
        ("weights", (6,), "should hold 6 finite numbers"),
        ("weights", (-1, 2), "should hold anyx2 finite numbers"),
    ],
)
def test_a_missing_or_misshapen_array_is_refused(name: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(BadArtefact, match=said):
        make().array(name, *shape)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    with pytest.raises(BadArtefact, match="finite"):
        Artefact.make({"weights": np.array([1.0, number])}, **CARD).array("weights", 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format"),
        ({"policy": None}, "policy"),
        ({"surprise": 1}, "surprise"),
        ({"metrics": {"apgr": "high"}}, "metrics"),
        ({"models": {"small": "s"}}, "models"),
        ({"models": {"small": "s" * 201, "large": "l", "prm": "p"}}, r"models\.small"),
        ({"models": {"small": "s", "large": "l", "prm": ""}}, r"models\.prm"),
        ({"command": "a\x00b"}, "a text contains a NUL character"),
        ({"data": {"names": ["a\x00b"]}}, "a text contains a NUL character"),
        ({"settings": {"a\x00b": 1}}, "a text contains a NUL character"),
        ({"data": {"share": math.nan}}, "a number is not finite"),
        ({"settings": {"prices": [1, math.inf]}}, "a number is not finite"),
        ({"metrics": {"apgr": math.nan}}, "a number is not finite"),
    ],
)
def test_a_card_that_cannot_be_read_names_the_field(change: dict[str, Any], said: str) -> None:
    card, arrays = make().encode()
    with pytest.raises(BadArtefact, match=said):
        Artefact.read(json.dumps(json.loads(card) | change), arrays)


def test_a_card_may_hold_a_backslash_before_the_digits_of_a_nul_character() -> None:
    made = Artefact.make(ARRAYS, **CARD | {"command": "printf \\u0000"})
    assert Artefact.read(*made.encode()).card.command == "printf \\u0000"


def test_numbers_that_a_column_of_json_changes_are_written_as_it_returns_them() -> None:
    numbers = {"zero": -0.0, "large": 1e23, "all": [1e16, -1e22, 1.5, 1e-9, 3], "flag": True, "none": None}
    made = Artefact.make(ARRAYS, **CARD | {"data": numbers, "metrics": {"apgr": -0.0, "tokens": 1e23}})
    assert json.dumps(made.card.data, sort_keys=True) == (
        '{"all": [10000000000000000, -10000000000000000000000, 1.5, 1e-09, 3], "flag": true,'
        ' "large": 100000000000000000000000, "none": null, "zero": 0.0}'
    )
    assert json.dumps(dict(made.card.metrics)) == '{"apgr": 0.0, "tokens": 1e+23}'
    assert Artefact.read(*made.encode()).digest == made.digest


def test_text_that_is_no_card_is_refused() -> None:
    with pytest.raises(BadArtefact, match="the card"):
        Artefact.read("not JSON", make().encode()[1])


@pytest.mark.parametrize("cut", [0, 1, -1])
def test_arrays_of_another_card_or_cut_short_are_refused(cut: int) -> None:
    card, arrays = make().encode()
    with pytest.raises(BadArtefact, match="not those of the card"):
        Artefact.read(card, arrays[:cut] if cut else Artefact.make({}, **CARD).encode()[1])


def read_arrays(data: bytes) -> Artefact:
    """Read a file of arrays whose digest is right, whatever it holds."""
    card = json.loads(make().encode()[0])
    card["arrays_sha256"] = artefact.hashlib.sha256(data).hexdigest()
    return Artefact.read(json.dumps(card), data)


def test_a_file_that_is_no_archive_is_refused() -> None:
    with pytest.raises(BadArtefact, match=r"no \.npz file"):
        read_arrays(b"nothing of the kind")


def test_a_pickle_is_never_loaded() -> None:
    file = io.BytesIO()
    np.savez(file, weights=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadArtefact, match=r"no \.npz file"):
        read_arrays(file.getvalue())


def archive(member: bytes, *, name: str = "weights.npy", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as members:
        members.writestr(name, member)
    return file.getvalue()


def header(shape: str, kind: str = "<f8") -> bytes:
    """Return an array's file that holds nothing but its header."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        archive(header("(3,)")),
        archive(header("(10**3,)")),
        archive(header(f"({10**18},)")),
        archive(header("(-1,)")),
        archive(header("(2,")),
        archive(header("(2,)") + b"\0" * 16, method=zipfile.ZIP_LZMA).replace(b"\x05\x00\x5d", b"\x05\x00\xff"),
        archive(b"no array", name="weights.txt"),
        archive(header("(2,)") + b"\0" * 16)[:-30],
        archive(header("(2,)") + b"\0" * 16).replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
        ),
    ],
)
def test_a_forged_or_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadArtefact, match=r"no \.npz file"):
        read_arrays(data)


@pytest.mark.parametrize("kind", ["c16", "U4", "S4", "f16", "M8[s]", "?", "f8,f8"])
def test_an_array_of_another_type_than_real_numbers_is_refused(kind: str) -> None:
    file = io.BytesIO()
    np.savez(file, weights=np.zeros(2, dtype=kind))
    with pytest.raises(BadArtefact, match=r"'weights' .* not real numbers"):
        read_arrays(file.getvalue())


def test_numbers_of_fewer_bits_are_read_as_floats() -> None:
    file = io.BytesIO()
    np.savez(file, half=np.float16([0.5]), small=np.int8([-3]), count=np.uint64([7]))
    read = read_arrays(file.getvalue()).arrays
    assert {name: (array.dtype.name, array.tolist()) for name, array in read.items()} == {
        "half": ("float64", [0.5]), "small": ("float64", [-3.0]), "count": ("float64", [7.0]),
    }  # fmt: skip


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("weights.npy", b"\0" * (artefact.MAX_BYTES + 1))
    with pytest.raises(BadArtefact, match="at most"):
        read_arrays(file.getvalue())
