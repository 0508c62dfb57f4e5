"""The plans of statements as the server executed them, reported by its module auto_explain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import event

from shared.store.database import Database

_SETTINGS = (
    "LOAD 'auto_explain'",
    "SET auto_explain.log_min_duration = 0",
    "SET auto_explain.log_analyze = on",
    "SET auto_explain.log_format = json",
    "SET auto_explain.log_nested_statements = on",
    "SET client_min_messages = log",
)


@dataclass(frozen=True)
class Plan:
    """One executed statement."""

    statement: str
    nodes: tuple[Mapping[str, Any], ...]
    """Nodes of the plan, from the top."""

    @property
    def scanned(self) -> set[str]:
        """Tables that were read whole."""
        return {each["Relation Name"] for each in self.nodes if each["Node Type"] == "Seq Scan"}

    @property
    def indexes(self) -> set[str]:
        """Indexes that were used."""
        return {each["Index Name"] for each in self.nodes if "Index Name" in each}

    @property
    def is_sorted(self) -> bool:
        """Whether rows were sorted, rather than read in order."""
        return any(each["Node Type"].endswith("Sort") for each in self.nodes)

    @property
    def rows_read(self) -> int:
        """Rows that were read from tables, those that a filter removed included."""
        return sum(
            each["Actual Loops"] * (each["Actual Rows"] + each.get("Rows Removed by Filter", 0))
            for each in self.nodes
            if "Scan" in each["Node Type"] and ("Relation Name" in each or "Index Name" in each)
        )

    def __str__(self) -> str:
        lines = (
            f"  {each['Node Type']} {each.get('Relation Name', '')} {each.get('Index Name', '')}" for each in self.nodes
        )
        return "\n".join((self.statement, *lines))


def explain_everything(database: Database) -> list[Plan]:
    """Return the list that receives the plan of every statement from now on, on connections that are opened later."""
    heard: list[Plan] = []

    def hear(message: psycopg.errors.Diagnostic) -> None:
        said = message.message_primary or ""
        if " plan:\n" in said:
            heard.append(_read(json.loads(said.split(" plan:\n", 1)[1])))

    @event.listens_for(database.engine, "connect")
    def _load(connection: psycopg.Connection[Any], _record: object) -> None:
        for setting in _SETTINGS:
            connection.execute(setting)
        connection.commit()
        connection.add_notice_handler(hear)

    return heard


def _read(explained: Mapping[str, Any]) -> Plan:
    return Plan(explained["Query Text"], tuple(_walk(explained["Plan"])))


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _walk(child)
