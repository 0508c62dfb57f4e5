"""What migrations share: the phases that their file names state, and the code that a schema allows.

An expand migration works beside the code before it. A contract migration removes what that code no longer uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from alembic import op

from shared.store.compatibility import schema_compatibility


class Phase(StrEnum):
    """Whether running code may stay."""

    EXPAND = "expand"
    CONTRACT = "contract"


FILE_NAME = re.compile(rf"(?P<revision>\d{{4}})_(?P<phase>{'|'.join(Phase)})_[a-z0-9_]+\.py")
"""Name of a migration's file, such as `0003_expand_add_leases.py`."""


def retire_code_before(revision: str) -> None:
    """Exclude code older than a revision from this schema.

    A contract migration calls it when it upgrades, and when it downgrades with the revision from before.
    """
    op.execute(schema_compatibility.update().values(oldest_code=revision))


@contextmanager
def concurrently() -> Iterator[None]:
    """Run statements outside any transaction and without timeouts, as CREATE INDEX CONCURRENTLY needs it.

    What the migration did before is committed. If a statement fails, the revision stays and the whole migration runs
    again, so every statement of such a migration must be repeatable.
    """
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        yield
