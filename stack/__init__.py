"""The whole service on one machine: an embedded Postgres, every role as a child process."""
