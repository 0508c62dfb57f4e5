"""The REST API: takes submissions, returns results and the record. It decides nothing and needs only Postgres."""
