"""The table of the processes of the service."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import false
from sqlalchemy.orm import Mapped, mapped_column

from shared.domain.fitness import Unfit
from shared.store.tables import Base


class Process(Base):
    """A process of the service, as of its last heartbeat."""

    __tablename__ = "processes"

    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    model: Mapped[str | None]
    seen_at: Mapped[datetime]
    unfit_code: Mapped[str | None]
    unfit_detail: Mapped[str | None]
    unfit_since: Mapped[datetime | None]
    clock_ahead_s: Mapped[float | None]
    completes_prefixes: Mapped[bool] = mapped_column(server_default=false())

    @property
    def unfit(self) -> Unfit | None:
        """Why it takes no commands for now, if it is a worker that does not."""
        if self.unfit_code is None or self.unfit_detail is None or self.unfit_since is None:
            return None
        return Unfit(code=self.unfit_code, detail=self.unfit_detail, since=self.unfit_since)
