"""The server: routes over a catalogue of slides and archives."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from zoomldm import __version__
from zoomldm.errors import RegionError, ZoomLDMError
from zoomldm.viewer.cache import TileCache
from zoomldm.viewer.catalogue import Catalogue
from zoomldm.viewer.guard import Guard, names_of
from zoomldm.viewer.pictures import GoneError
from zoomldm.viewer.routes import router
from zoomldm.viewer.telemetry import Telemetry
from zoomldm.viewer.tiles import TileService
from zoomldm.viewer.work import BusyError

PAGE = Path(str(resources.files("zoomldm.viewer") / "page"))


@dataclass(frozen=True)
class ViewerSettings:
    """How a viewer serves.

    Attributes:
        host: host or address that it is bound to.
        names: further host names that requests may be for.
        token: token that requests must carry; None requires none.
        cache: folder of the tile cache on disk; None for no disk cache.
        memory: bytes of encoded tiles in memory.
        disk: bytes of encoded tiles on disk.
        most: tiles that may wait to be generated.
    """

    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    cache: Path | None = None
    memory: int = 128 << 20
    disk: int = 2 << 30
    most: int = 256


def create_app(catalogue: Catalogue, settings: ViewerSettings | None = None) -> FastAPI:
    """Create the viewer's ASGI application, which closes the catalogue when it ends.

    Args:
        catalogue: what to serve; see `zoomldm.viewer.catalogue.open_catalogue`.
        settings: see ViewerSettings.

    Raises:
        TargetError: the cache folder can't be used.
    """
    settings = settings or ViewerSettings()
    service = TileService(TileCache(settings.cache, settings.memory, settings.disk), settings.most)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()
        catalogue.close()

    app = FastAPI(
        title="ZoomLDM viewer",
        version=__version__,
        lifespan=life,
        docs_url=None,  # those pages load scripts from other sites
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    telemetry = Telemetry(service)
    app.state.catalogue, app.state.service = catalogue, service
    app.state.settings, app.state.telemetry = settings, telemetry
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=PAGE / "static"), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    _answer_errors(app)
    names = names_of(settings.host, settings.names)
    app.add_middleware(Guard, names=names, token=settings.token, telemetry=telemetry)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Answer every error with one line of JSON."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = first["loc"]
        # An impossible path doesn't exist; an impossible query is a mistake.
        status = 404 if where and where[0] == "path" else 422
        return _line(status, f"{'.'.join(map(str, where[1:]))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> Response:
        return _line(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> Response:
        return _line(503, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(RegionError)
    async def outside(_: Request, error: RegionError) -> Response:
        return _line(404, str(error))

    @app.exception_handler(GoneError)
    async def gone(_: Request, error: GoneError) -> Response:
        return _line(410, str(error))

    @app.exception_handler(ZoomLDMError)
    async def unreadable(_: Request, error: ZoomLDMError) -> Response:
        logging.getLogger(__name__).warning("%s", error)  # may name a path: only for the log
        return _line(500, f"these pixels can't be read ({type(error).__name__}); see the log")


def _line(status: int, text: str, headers: dict[str, Any] | None = None) -> JSONResponse:
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return JSONResponse({"error": text}, status, headers=headers)
