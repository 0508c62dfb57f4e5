"""Artefacts: what a fitted or trained policy has learned, as arrays with a card that describes them.

An artefact is two blobs: the arrays as a `.npz` file without pickles, and the card as JSON. The card holds the digest
of the arrays, so neither is used with another's.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.domain.artefacts import EncodedArtefact, ModelIds
from shared.errors import PermanentError

Floats = NDArray[np.float64]

ModelId = Annotated[str, Field(min_length=1, max_length=200)]
"""Model id, as the record of steps and decisions names the model. An index holds three of them."""

MAX_BYTES = 16 << 20
"""Largest size of the arrays' file, and of the arrays in it."""


class BadArtefact(PermanentError):
    """The policy's artefact is damaged or belongs to another policy; export or train it again."""

    code = "bad_artefact"


class Models(BaseModel):
    """The models that an artefact was fitted on. It is valid for no others: scores of two PRMs are not comparable."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    small: ModelId
    large: ModelId
    prm: ModelId


class Card(BaseModel):
    """What an artefact is, what it is for, and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    policy: str
    """Name of the policy that uses it."""
    models: Models
    data: dict[str, Any]
    """The data that it was fitted on: where it comes from, its split, and how many problems and steps it holds."""
    settings: dict[str, Any]
    """Settings of the fit, so that it can be repeated."""
    metrics: dict[str, float]
    """What was measured on problems that it was not fitted to, and that did not choose its weights."""
    created_at: AwareDatetime
    command: str
    """Command that made it."""
    arrays_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, fields: object) -> object:
        """Return the fields as a column of JSON returns them, so that the digest is the same afterwards."""
        return _stored(fields)


def _stored(value: object) -> object:
    """Return a value of JSON as a column of JSON returns it: numbers there have no negative zero and no exponent.

    Raises:
        ValueError: The column cannot hold the value.
    """
    match value:
        case str() if "\0" in value:
            raise ValueError("a text contains a NUL character")
        case float() if not math.isfinite(value):
            raise ValueError("a number is not finite")
        case float() if "e+" in (written := repr(value)):
            return int(Decimal(written))
        case float():
            return value + 0.0
        case dict():
            return {_stored(name): _stored(each) for name, each in value.items()}
        case list() | tuple():
            return [_stored(each) for each in value]
        case _:
            return value


@dataclass(frozen=True)
class Artefact:
    """A card and its arrays."""

    card: Card
    arrays: Mapping[str, Floats]

    @classmethod
    def make(cls, arrays: Mapping[str, Floats], **card: Any) -> Artefact:
        """Make an artefact of arrays; the other arguments are the fields of the card."""
        digest = hashlib.sha256(encode_arrays(arrays)).hexdigest()
        return cls(Card(**card, arrays_sha256=digest), arrays)

    @classmethod
    def read(cls, card: str | bytes, arrays: bytes) -> Artefact:
        """Read an artefact.

        Raises:
            BadArtefact: The card is no card of this version, or the arrays are damaged or another card's.
        """
        try:
            parsed = Card.model_validate_json(card)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the card"
            reason = first["msg"].removeprefix("Value error, ")
            raise BadArtefact(f"The artefact's card cannot be read: {place}: {reason}.") from error
        if hashlib.sha256(arrays).hexdigest() != parsed.arrays_sha256:
            raise BadArtefact(f"The arrays are not those of the card of {parsed.policy!r}; export both files again.")
        return cls(parsed, _decode_arrays(arrays))

    def encode(self) -> tuple[bytes, bytes]:
        """Return the card as JSON and the arrays as the content of a `.npz` file."""
        return (json.dumps(self.card.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode(), encode_arrays(
            self.arrays
        )

    @property
    def models(self) -> ModelIds:
        """The models that it belongs to."""
        models = self.card.models
        return ModelIds(small=models.small, large=models.large, prm=models.prm)

    @property
    def encoded(self) -> EncodedArtefact:
        """The artefact as it is stored."""
        card, arrays = self.encode()
        return EncodedArtefact(
            policy=self.card.policy, digest=self.digest, card=card.decode(), arrays=arrays, models=self.models
        )

    @cached_property
    def digest(self) -> str:
        """Identity of the artefact: SHA-256 of the card, which holds that of the arrays.

        The time is left out: a fit that is repeated with the same result is the same artefact.
        """
        card = self.card.model_dump(mode="json", exclude={"created_at"})
        return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()

    def array(self, name: str, *shape: int) -> Floats:
        """Return an array of a certain shape; -1 is any length.

        Raises:
            BadArtefact: There is none, or it has another shape or numbers that are not finite.
        """
        found = self.arrays.get(name)
        if found is None:
            raise BadArtefact(f"The artefact of {self.card.policy!r} has no array {name!r}; train it again.")
        fits = len(shape) == found.ndim and all(
            want in (-1, have) for want, have in zip(shape, found.shape, strict=True)
        )
        if not fits or not np.isfinite(found).all():
            wanted = "x".join("any" if size < 0 else str(size) for size in shape)
            raise BadArtefact(
                f"The array {name!r} of the artefact of {self.card.policy!r} should hold {wanted} finite numbers;"
                " train it again."
            )
        return found


def encode_arrays(arrays: Mapping[str, Floats]) -> bytes:
    """Encode arrays as the content of a `.npz` file; the same arrays always give the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name]), allow_pickle=False)
            # `numpy.savez` would store the time of day.
            members.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return file.getvalue()


def _decode_arrays(data: bytes) -> dict[str, Floats]:
    try:
        _check_size(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: _floats(name, file[name]) for name in file.files}
    except BadArtefact:
        raise
    except Exception as error:  # A damaged or forged file: numpy, zipfile and its decompressors raise many types.
        raise BadArtefact(f"The artefact's arrays are no .npz file ({type(error).__name__}).") from error


def _floats(name: str, array: NDArray[Any]) -> Floats:
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > np.dtype(np.float64).itemsize:
        raise BadArtefact(
            f"The array {name!r} of the artefact holds {array.dtype}, not real numbers of at most 64 bits."
        )
    return array.astype(np.float64)


def _check_size(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        size = sum(member.file_size for member in members.infolist())
    if max(size, len(data)) > MAX_BYTES:
        raise BadArtefact(f"The artefact's arrays hold {size} bytes; a policy may have {MAX_BYTES} at most.")
