"""Assembles the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import Depends, FastAPI

from services.api import errors
from services.api.access import keys, tenants
from services.api.access.description import describe_access
from services.api.access.middleware import Access, Gate
from services.api.counting import RequestCounts
from services.api.dependencies import check_needed_scope
from services.api.following import Following
from services.api.lanes import limit_request_threads
from services.api.leaving import Leaving
from services.api.middleware import BodyDeadline, BodyLimit, Methods, RequestIds
from services.api.native import batch_problems, batches, changes, events, exports, health, policies, problems
from services.api.openai import chat, models
from services.api.openai.solving import Solving
from services.api.waiting import Waiting
from shared.heartbeats import silence_s
from shared.settings import Settings
from shared.store.database import Database
from shared.version import VERSION


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Describe the API, with what FastAPI has no settings for: the media type of errors, and who may use what."""
        if self.openapi_schema is None:
            schema = super().openapi()
            describe_access(schema, is_required=self.state.gate.needs_key)
            for path in schema["paths"].values():
                for operation in path.values():
                    for response in operation["responses"].values():
                        errors.set_media_type(response)
            self.openapi_schema = schema
        return self.openapi_schema


def create_app(settings: Settings, database: Database) -> FastAPI:
    """Create the app. The caller closes the database."""
    app = _Application(
        title="TRIM",
        summary="Step-level routing between a small and a large language model, with a record of every decision.",
        version=VERSION,
        # The interactive pages load scripts from other hosts. The description is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        lifespan=_run,
        # A redirect would name the host and the scheme of this process, which clients behind a proxy cannot reach.
        redirect_slashes=False,
        dependencies=[Depends(check_needed_scope)],
    )
    app.state.settings = settings
    app.state.database = database
    app.state.waiting = Waiting()
    app.state.following = Following(database, app.state.waiting, silence_s=silence_s(settings))
    app.state.gate = Gate(settings, database)
    app.state.solving = Solving(settings, database, app.state.waiting, Leaving(database))
    errors.install(app)
    app.add_middleware(BodyDeadline, timeout_s=settings.api_request_timeout_s)
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes, max_stream_bytes=settings.max_stream_bytes)
    app.add_middleware(RequestIds)
    app.add_middleware(RequestCounts)
    # `exports` comes before the problem whose id would be `export`. A route of `batch_problems` has the path of one of
    # `batches`, and takes a part of its requests.
    native = (exports, problems, events, batch_problems, batches, changes, policies)
    for part in (*native, models, chat, keys, tenants, health):
        app.include_router(part.router)
    # Not as the middleware above, which stand outside of the handlers of errors.
    app.router.middleware_stack = Methods(Access(app.router.middleware_stack, app.state.gate), app.routes)
    return app


@asynccontextmanager
async def _run(app: FastAPI) -> AsyncIterator[None]:
    """Wake clients that wait, and count requests, for as long as the app serves."""
    limit_request_threads()
    tasks = [
        asyncio.create_task(app.state.waiting.follow(app.state.database)),
        asyncio.create_task(app.state.gate.keep_records()),
    ]
    yield
    await app.state.solving.leaving.stop()
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
