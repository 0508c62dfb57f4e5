"""The `trim` command: it talks to the REST API of a running service, except where a command names engines or files."""
