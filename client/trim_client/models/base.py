"""What all parts of a response have in common."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

Item = TypeVar("Item")


class Model(BaseModel):
    """Part of a response. Fields that this version does not know are kept: as attributes, and in `model_extra`."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Page(Model, Generic[Item]):
    """One page of a listing."""

    items: list[Item]
    """Items in the order of the listing."""
    next_cursor: str | None
    """Cursor of the next page; `None` on the last page."""
