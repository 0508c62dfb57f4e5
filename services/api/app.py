"""Puts the API together."""

from __future__ import annotations

from fastapi import FastAPI

from services.api import about, batches, errors, problems
from services.api.requests import RequestIds
from shared.settings import Settings
from shared.store.database import Database


def create_app(settings: Settings, database: Database) -> FastAPI:
    """Make the app on a database; the caller closes the database."""
    app = FastAPI(
        title="TRIM",
        summary="Large-model accuracy for a fraction of its tokens: every step routed, every decision recorded.",
        version="1",
        max_body_size=settings.max_body_bytes,
        # The interactive pages load scripts from elsewhere; the description itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.database = database
    errors.install(app)
    app.add_middleware(RequestIds)
    for part in (problems, batches, about):
        app.include_router(part.router)
    return app
