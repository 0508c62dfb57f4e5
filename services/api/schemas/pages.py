"""One page of a listing."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item", bound=BaseModel)


class Page(BaseModel, Generic[Item]):
    """One page of a listing."""

    items: list[Item] = Field(description="Items in the order of the listing.")
    next_cursor: str | None = Field(description="Cursor of the next page; null on the last page.")
