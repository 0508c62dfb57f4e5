"""Differences between a database and what the code describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from shared.store.access_tables import KeyRow
from shared.store.change_feed import ChangeRow
from shared.store.compatibility import REVISION, read_schema
from shared.store.policy_tables import PolicyVersionRow
from shared.store.process_table import Process
from shared.store.shadow_tables import ShadowDecisionRow
from shared.store.views_and_triggers import OBJECTS

_SCRATCH = "trim_wanted_objects"

[_TABLES] = {each.metadata for each in (ChangeRow, KeyRow, PolicyVersionRow, Process, ShadowDecisionRow)}
"""All tables: this module and `compatibility` import the modules of all others."""

# The catalog prints both sides from what the server parsed, so spelling is no drift. Operators tune autovacuum, so its
# options are left out. An index that belongs to a constraint is compared as that constraint.
_DEFINITIONS = text("""
WITH here AS (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
SELECT 'function ' || p.oid::regprocedure::text, pg_get_functiondef(p.oid)
FROM pg_proc p
WHERE p.pronamespace = (SELECT oid FROM here) AND p.prokind <> 'a' AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'trigger ' || t.tgname || ' on ' || c.relname, pg_get_triggerdef(t.oid, true) || ', ' || t.tgenabled::text
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = (SELECT oid FROM here) AND NOT t.tgisinternal AND NOT c.relispartition
UNION ALL
SELECT 'view ' || c.relname, pg_get_viewdef(c.oid) || coalesce(c.reloptions::text, '')
FROM pg_class c
WHERE c.relnamespace = (SELECT oid FROM here) AND c.relkind IN ('v', 'm') AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT 'constraint ' || k.conname || ' on ' || c.relname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.connamespace = (SELECT oid FROM here) AND k.contype IN ('c', 'p', 'u', 'f') AND NOT c.relispartition
AND c.relname <> 'alembic_version'
UNION ALL
SELECT 'index ' || x.relname || ' on ' || c.relname, pg_get_indexdef(x.oid)
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = (SELECT oid FROM here) AND NOT c.relispartition
AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.oid AND k.contype IN ('p', 'u'))
UNION ALL
SELECT 'storage options of ' || c.relname, string_agg(option, ', ' ORDER BY option)
FROM pg_class c, unnest(c.reloptions) option
WHERE c.relnamespace = (SELECT oid FROM here) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
AND option NOT LIKE 'autovacuum%'
GROUP BY c.relname
UNION ALL
SELECT 'invalid index ' || i.indexrelid::regclass::text, ''
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = (SELECT oid FROM here) AND NOT i.indisvalid
""")


def find_drift(connection: Connection) -> list[str]:
    """Describe what differs between the database and the tables and objects of the code.

    Alembic compares tables and columns. For all else, this function creates what the code describes in a second schema
    and compares the catalog's definitions of both. The caller rolls back. Partitions are the operator's, so only the
    table that they belong to is compared.
    """
    revision = read_schema(connection).revision
    if revision != REVISION:
        return [f"its revision is {revision or 'missing'}, not {REVISION}"]
    partitions = set(connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition")))
    options = {
        "compare_server_default": True,
        "include_name": lambda name, *_: name not in partitions,
        "include_object": lambda _object, _name, kind, *_: kind in ("table", "column"),
    }
    context = MigrationContext.configure(connection, opts=options)
    differences = [str(each) for each in compare_metadata(context, _TABLES)]
    found = _read_definitions(connection)
    connection.execute(text(f"CREATE SCHEMA {_SCRATCH}"))
    # The schema that is compared stays on the path for types of its extensions.
    connection.execute(
        text(f"SELECT set_config('search_path', '{_SCRATCH}, ' || current_setting('search_path'), true)")
    )
    _TABLES.create_all(connection, checkfirst=False)
    for statement in OBJECTS:
        connection.execute(text(statement))
    return [*differences, *_compare(found, _read_definitions(connection))]


def _read_definitions(connection: Connection) -> dict[str, str]:
    """Read the definitions in the first schema of the search path, without that schema's name."""
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    rows = connection.execute(_DEFINITIONS)
    # Only the head of a function's or an index's definition has the name: everything else is on the search path.
    return {name: definition.replace(f"{schema}.", "", 1) for name, definition in rows}


def _compare(found: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            yield f"{name} is missing"
        elif name not in wanted:
            yield f"{name} is unknown to the code"
        elif found[name] != wanted[name]:
            yield f"{name} differs"
