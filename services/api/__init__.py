"""The REST API: accepts submissions, returns results and their record. It needs only Postgres."""
