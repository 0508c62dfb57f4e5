"""Postgres: the tables and all SQL. Callers open the transaction; nothing in here commits."""
