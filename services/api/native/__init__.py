"""The service's native REST endpoints, under `/v1`."""
