"""Parameters that a deployment adds to, or takes out of, the requests to one model's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

OWN = frozenset({"model", "messages", "prompt", "input", "stream", "n"})
"""Parameters that make a request what it is."""


def _not_own(names: Any) -> Any:
    if own := sorted(OWN.intersection(names)):
        raise ValueError(f"{', '.join(own)} cannot be changed")
    return names


Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]


class Parameters(BaseModel):
    """How the requests to a server differ from those that a worker makes by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rename: Annotated[dict[Name, Name], AfterValidator(_not_own)] = {}
    """New names, by the names that a worker uses."""
    drop: Annotated[frozenset[Name], AfterValidator(_not_own)] = frozenset()
    """Parameters that are not sent."""
    fix: Annotated[dict[Name, Any], AfterValidator(_not_own)] = {}
    """Parameters with a value of the deployment's own. Objects are merged with those that a worker sends."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_other_parts(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.keys() <= cls.model_fields.keys():
            raise ValueError(f"its parts are {', '.join(cls.model_fields)}, and no others")
        return given

    @model_validator(mode="after")
    def _change_each_once(self) -> Self:
        _not_own(self.rename.values())
        if twice := sorted(self.drop & (self.rename.keys() | self.fix.keys()) | self.rename.keys() & self.fix.keys()):
            raise ValueError(f"{', '.join(twice)} can only be renamed, dropped or fixed")
        if len(set(self.rename.values())) < len(self.rename):
            raise ValueError("two parameters cannot get the same name")
        return self

    def applied_to(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of a request as the server gets it."""
        sent = {self.rename.get(name, name): value for name, value in body.items() if name not in self.drop}
        for name, value in self.fix.items():
            ours = sent.get(name)
            sent[name] = {**ours, **value} if isinstance(ours, dict) and isinstance(value, dict) else value
        return sent
