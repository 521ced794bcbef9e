"""The application: routes of HTTP over one index. `create_app` puts it together."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..index.index import FastLaneIndex
from .endpoints import Endpoints
from .errors import RequestError, invalid
from .installed import SERVER, require
from .metrics import Metrics
from .middleware import BodyLimited, KeyRequired, Observed
from .models import (
    ChangeAnswer,
    DocumentsAnswer,
    EncodeAnswer,
    ErrorAnswer,
    HealthAnswer,
    IndexAnswer,
    SearchAnswer,
)
from .reranking import RerankAnswer
from .settings import ServerSettings

PAGE = Path(__file__).parent / "page"
"""The files of the page at `/`, which are served under `/page/`; without an `index.html` there is none."""

ERRORS = {
    400: "The body is no JSON.",
    401: "The API key is missing or wrong.",
    403: "The server is read-only.",
    404: "There is no such document.",
    409: "A document with this id is there already, or the index is unfinished.",
    413: "The body is too large.",
    415: "The body isn't sent as application/json.",
    422: "A field of the request is wrong.",
    503: "Too much is waiting, or a change couldn't be saved.",
}


def create_app(
    index: FastLaneIndex,
    directory: str | os.PathLike[str],
    settings: ServerSettings | None = None,
    *,
    memory_map: bool = False,
) -> Any:
    """A FastAPI application that serves an index; any ASGI server runs it, in one process.

    Args:
        index: What was loaded from the folder, with its encoder.
        directory: The folder, to which changes are saved.
        settings: The defaults if None.
        memory_map: Whether the index was loaded so.

    Raises:
        ImportError: The extra `serve` isn't installed.
        ValueError: The index has no encoder.
    """
    require("a server", SERVER)
    import fastapi

    if index.encoder is None:
        raise ValueError("a server encodes queries: load the index with an encoder")
    settings = settings or ServerSettings()
    metrics = Metrics()
    endpoints = Endpoints(index, directory, settings, metrics, memory_map=memory_map)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await endpoints.close()

    app: Any = fastapi.FastAPI(
        title="FastLane",
        description="Routed late-interaction search over one index.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    add_routes(app, endpoints)
    handle_errors(app)
    paths = [route.path for route in app.routes if hasattr(route, "methods")]
    app.add_middleware(BodyLimited, max_bytes=settings.max_body_bytes)
    app.add_middleware(KeyRequired, key=settings.api_key)
    app.add_middleware(Observed, metrics=metrics, paths=paths)
    return app


def add_routes(app: Any, endpoints: Endpoints) -> None:
    """Adds all routes."""
    from fastapi.staticfiles import StaticFiles

    def add(
        method: str, path: str, endpoint: Any, answer: Any, *statuses: int, **options: Any
    ) -> None:
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            response_model=answer,
            responses=described(401, *statuses),
            **options,
        )

    post = (400, 413, 415, 422)
    add("POST", "/search", endpoints.search, SearchAnswer, *post, 503)
    add("POST", "/encode", endpoints.encode, EncodeAnswer, *post, 503)
    for path in ("/rerank", "/v1/rerank"):
        add(
            "POST",
            path,
            endpoints.rerank,
            RerankAnswer,
            *post,
            503,
            response_model_exclude_none=True,
        )
    add(
        "POST",
        "/v2/rerank",
        endpoints.rerank_v2,
        RerankAnswer,
        *post,
        503,
        response_model_exclude_none=True,
    )
    add("POST", "/documents", endpoints.add, ChangeAnswer, *post, 403, 409, 503)
    add("PUT", "/documents", endpoints.upsert, ChangeAnswer, *post, 403, 409, 503)
    add("POST", "/documents/delete", endpoints.delete, ChangeAnswer, *post, 403, 404, 409, 503)
    add("POST", "/documents/get", endpoints.get, DocumentsAnswer, *post, 404)
    add("GET", "/index", endpoints.describe, IndexAnswer)
    app.add_api_route("/health", endpoints.health, methods=["GET"], response_model=HealthAnswer)
    app.add_api_route(
        "/metrics",
        endpoints.metrics,
        methods=["GET"],
        responses=described(401),
        response_model=None,
    )
    app.add_api_route("/", page, methods=["GET"], include_in_schema=False, response_model=None)
    if PAGE.is_dir():
        app.mount("/page", StaticFiles(directory=PAGE))


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of errors."""
    return {
        status: {"model": ErrorAnswer, "description": ERRORS[status]} for status in sorted(statuses)
    }


async def page() -> Any:
    """The page, if it is installed."""
    from fastapi.responses import FileResponse

    if not (PAGE / "index.html").is_file():
        raise RequestError(404, "there is no page here: /openapi.json describes what there is")
    return FileResponse(PAGE / "index.html")


def handle_errors(app: Any) -> None:
    """Gives every error the same form."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    async def requested(request: Any, error: Any) -> Any:
        headers = {"retry-after": "1"} if error.status == 503 else None
        return JSONResponse(error.body, error.status, headers)

    async def unreadable(request: Any, error: Any) -> Any:
        if is_of_other_type(request):
            other = RequestError(415, "send the body as JSON, with Content-Type: application/json")
            return await requested(request, other)
        return await requested(request, invalid(error.errors()))

    async def http(request: Any, error: Any) -> Any:
        message = {
            400: f"the body can't be read as JSON: {reason_of(error)}",
            404: "there is nothing at this path: /openapi.json describes what there is",
            405: "this path doesn't take this method: /openapi.json describes what there is",
        }.get(error.status_code, str(error.detail))
        response = await requested(request, RequestError(error.status_code, message))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(RequestError, requested)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, http)


def is_of_other_type(request: Any) -> bool:
    """Whether a body isn't sent as JSON; forms of other sites can't send that."""
    kind = str(request.headers.get("content-type", "")).partition(";")[0].strip().lower()
    headers = request.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    return has_body and kind != "application/json" and not kind.endswith("+json")


def reason_of(error: BaseException) -> str:
    """Why a body isn't JSON, without the body."""
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return f"invalid UTF-8 at byte {cause.start}"
    if isinstance(cause, RecursionError):
        return "it is nested too deeply"
    return "a number in it is too long" if isinstance(cause, ValueError) else "it is malformed"
