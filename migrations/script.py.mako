"""${name[:1].upper()}${name[1:]}."""
%if phase == "expand":

# Expand: the previous version runs while this migration runs, and keeps running afterwards. So:
# - Add tables, nullable columns, or columns with a constant default. Do not rename, drop or retype anything.
# - Add CHECK and FOREIGN KEY constraints NOT VALID, and only if the previous version's rows satisfy them. Validate them
#   in the next migration.
# - Do not change the columns of a view that running code reads with `*`: its prepared statements would fail.
# - Build indexes on existing tables concurrently, in a migration that does nothing else:
#       with phases.concurrently():
#           op.drop_index("ix_...", if_exists=True, postgresql_concurrently=True)  # the rest of a failed attempt
#           op.create_index("ix_...", "table", ["column"], postgresql_concurrently=True)
%else:

# Contract: remove what no running version uses. Ship it at the earliest one release after the code that stopped using
# it, and pass that code's REVISION to retire_code_before. Code older than that reports that it must be upgraded.
%endif

# Timeouts (migrations/session.py): a migration waits 4 s for a lock, and a statement runs for 20 s at most. Lift the
# limit for a long statement that blocks nobody: op.execute("SET LOCAL statement_timeout = 0").
# Delete these comments. State here why running code is not affected, or which code is retired.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import phases

revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
%if phase == "contract":
    phases.retire_code_before("...")  # REVISION of the code that stopped using it
%endif


def downgrade() -> None:
    """Take back."""
%if phase == "contract":
    phases.retire_code_before("...")  # what it was before
%endif
