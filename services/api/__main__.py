"""Runs the API: `python -m services.api`."""

from __future__ import annotations

from services.api.server import serve
from shared.process import parser, run_role
from shared.store.watching import CONDITIONS

if __name__ == "__main__":
    parser(
        "services.api",
        "Serve the REST API. It needs TRIM_DATABASE_URL. TRIM_API_HOST and TRIM_API_PORT choose where it listens.",
    ).parse_args()
    run_role(serve, role="api", conditions=CONDITIONS)
