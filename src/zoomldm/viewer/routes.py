"""The routes: slides, tiles, regions, overlays, and the state of the server."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel

from zoomldm import __version__
from zoomldm.geometry.levels import COARSEST, TILE
from zoomldm.viewer.catalogue import Entry
from zoomldm.viewer.export import tissue_image
from zoomldm.viewer.guard import COOKIE
from zoomldm.viewer.pictures import MOST_SEED, ArchiveImage
from zoomldm.viewer.regions import NOTICE, check_region, region_file
from zoomldm.viewer.telemetry import MEDIA_TYPE
from zoomldm.viewer.tiles import MEDIA, URGENCY, TileKey, check_seed, check_tile

router = APIRouter()
Result = TypeVar("Result")

FOREVER = "private, max-age=31536000, immutable"
BLOCK = 4096  # tiles per request for confidence
SIMILAR = 50
_STARTED = time.monotonic()

Id = Annotated[str, Path(pattern="^[0-9a-f]{12}$", description="A slide's opaque id.")]
Version = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
Seed = Annotated[int, Path(ge=0, le=MOST_SEED)]
Level = Annotated[int, Path(ge=0, le=COARSEST)]
Place = Annotated[int, Path(ge=0, le=2**24)]
Pixel = Annotated[int, Query(ge=0, le=2**31)]


class Fault(BaseModel):
    """A refusal, in one line."""

    error: str


_FAULTS: dict[int | str, dict[str, Any]] = {
    code: {"model": Fault, "description": text}
    for code, text in {
        401: "A token is needed.",
        404: "No such thing, or outside of it.",
        410: "The file was replaced or removed.",
        421: "Not a name of this server.",
        422: "An invalid parameter.",
        500: "The pixels can't be read.",
        503: "Too many requests waiting; see Retry-After.",
    }.items()
}


def _entry(request: Request, name: str) -> Entry:
    entry = request.app.state.catalogue.get(name)
    if entry is None:
        raise HTTPException(404, "no slide has this id")
    return entry


def _archive(request: Request, name: str) -> tuple[Entry, ArchiveImage]:
    entry = _entry(request, name)
    if not isinstance(entry.image, ArchiveImage):
        raise HTTPException(404, "this is a slide, not an archive")
    return entry, entry.image


async def _wanted(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Await a coroutine; if the client leaves first, cancel it and return None."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    if task.done():  # the common case: a tile in memory
        return task.result()
    gone = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


_LEFT = Response(status_code=499)  # nobody reads it


def _urgency(request: Request) -> int:
    """Read `u` from the Priority header (RFC 9218, section 4.1)."""
    for part in request.headers.get("priority", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "u" and len(value) == 1 and value in "01234567":
            return int(value)
    return URGENCY


@router.get("/api/slides.json", responses={401: _FAULTS[401]})
async def slides(request: Request) -> dict[str, Any]:
    """List all slides and archives shown, and what the page may do."""
    entries = request.app.state.catalogue.entries.values()
    return {
        "version": __version__,
        "notice": NOTICE,
        "tile": TILE,
        "live": True,
        "format": "jpg",
        "slides": [entry.metadata() for entry in entries],
    }


@router.get(
    "/tiles/{slide}/{version}/{seed}/{level}/{col}_{row}.{extension}",
    response_class=Response,
    responses={200: {"content": {m: {} for m in MEDIA.values()}}, 304: {}, **_FAULTS},
)
async def tile(
    request: Request,
    slide: Id,
    version: Version,
    seed: Seed,
    level: Level,
    col: Place,
    row: Place,
    extension: Annotated[Literal["jpg", "webp", "png"], Path()],
) -> Response:
    """Return a tile of 256 px; it never changes, since its path names all that it depends on."""
    entry = _entry(request, slide)
    key = TileKey(slide, version, seed, level, col, row, extension)
    check_tile(entry, key)
    tag = f'"{key.text}"'
    headers = {"ETag": tag, "Cache-Control": FOREVER}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    service = request.app.state.service
    data = service.cache.remembered(key.text)
    if data is not None:
        service.hits["memory"] += 1
    else:
        data = await _wanted(request, service.tile(entry, key, _urgency(request)))
        if data is None:
            return _LEFT
    return Response(data, media_type=MEDIA[extension], headers=headers)


@router.get(
    "/regions/{slide}/{version}/{seed}.{extension}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/tiff": {}}}, **_FAULTS},
)
async def region(
    request: Request,
    slide: Id,
    version: Version,
    seed: Seed,
    extension: Annotated[Literal["png", "tif"], Path()],
    level: Annotated[int, Query(ge=0, le=COARSEST)],
    x: Pixel,
    y: Pixel,
    w: Pixel,
    h: Pixel,
) -> Response:
    """Return a region in px of a level as a file that records the origin of its pixels."""
    entry = _entry(request, slide)
    if version != entry.version:
        raise HTTPException(404, "these pixels belong to another archive, pipeline or setting")
    check_seed(entry, seed)
    check_region(entry, level, x, y, w, h)
    service = request.app.state.service
    queue = service.reading if entry.image.is_real(level) else service.making
    place = x, y, w, h
    key = "region", slide, seed, extension, level, place
    work = queue.do(key, lambda: region_file(entry, seed, level, place, extension), (1, 0))
    data = await _wanted(request, work)
    if data is None:
        return _LEFT
    kind = "" if entry.image.is_real(level) else "-regenerated-not-for-diagnosis"
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in entry.name)
    name = f"{stem}-{x}-{y}{kind}.{extension}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
    }
    media = "image/png" if extension == "png" else "image/tiff"
    return Response(data, media_type=media, headers=headers)


@router.get("/api/slides/{slide}/similar.json", responses=_FAULTS)
async def similar(
    request: Request,
    slide: Id,
    row: Annotated[int, Query(ge=0, le=2**24)],
    col: Annotated[int, Query(ge=0, le=2**24)],
    count: Annotated[int, Query(ge=1, le=SIMILAR)] = 10,
) -> dict[str, Any]:
    """Find the tissue tiles most similar to one tile by embedding, in all archives shown."""
    entry, image = _archive(request, slide)
    if row >= image.archive.rows or col >= image.archive.cols:
        raise HTTPException(404, "no such tile")
    image.check()
    catalogue = request.app.state.catalogue
    found = await request.app.state.service.reading.do(
        ("similar", slide, row, col, count),
        lambda: catalogue.similar(entry, row, col, count),
        (1, 0),
    )
    return {"slide": slide, "row": row, "col": col, "places": found}


@router.get(
    "/api/slides/{slide}/{version}/tissue.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **_FAULTS},
)
async def tissue(request: Request, slide: Id, version: Version) -> Response:
    """Return an archive's tissue, one pixel per tile: white tissue, black background."""
    entry, image = _archive(request, slide)
    if version != entry.version:
        raise HTTPException(404, "no such version")
    image.check()
    headers = {"Cache-Control": FOREVER}
    return Response(tissue_image(image), media_type="image/png", headers=headers)


@router.get("/api/slides/{slide}/{version}/{seed}/confidence.json", responses=_FAULTS)
async def confidence(
    request: Request,
    slide: Id,
    version: Version,
    seed: Seed,
    row: Annotated[int, Query(ge=0, le=2**24)],
    col: Annotated[int, Query(ge=0, le=2**24)],
    rows: Annotated[int, Query(ge=1, le=BLOCK)],
    cols: Annotated[int, Query(ge=1, le=BLOCK)],
) -> dict[str, Any]:
    """Return cosines of stored and regenerated embeddings, for the tiles generated so far."""
    entry, image = _archive(request, slide)
    if version != entry.version:
        raise HTTPException(404, "no such version")
    if rows * cols > BLOCK:
        raise HTTPException(422, f"a block of {rows * cols} tiles; expected up to {BLOCK}")
    down = range(row, min(row + rows, image.archive.rows))
    across = range(col, min(col + cols, image.archive.cols))
    found = await request.app.state.service.confidence(entry, seed, down, across)
    return {"tiles": [{"row": r, "col": c, "cosine": value} for r, c, value in found]}


@router.get("/api/slides/{slide}/overlays/{number}.json", responses=_FAULTS)
async def overlay(
    request: Request, slide: Id, number: Annotated[int, Path(ge=0, le=1000)]
) -> Response:
    """Return a GeoJSON overlay of a slide."""
    overlays = _entry(request, slide).overlays
    if number >= len(overlays):
        raise HTTPException(404, "no such overlay")
    return Response(overlays[number].text, media_type="application/json")


@router.get(
    "/dzi/{slide}-{seed}.dzi",
    response_class=Response,
    responses={200: {"content": {"application/xml": {}}}, **_FAULTS},
)
async def deep_zoom(request: Request, slide: Id, seed: Seed) -> Response:
    """Return a slide's Deep Zoom description, for other viewers."""
    entry = _entry(request, slide)
    check_seed(entry, seed)
    width, height = entry.image.size
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="0" '
        f'TileSize="{TILE}"><Size Width="{width}" Height="{height}"/></Image>\n'
    )
    return Response(text, media_type="application/xml", headers={"Cache-Control": "no-cache"})


@router.get(
    "/dzi/{slide}-{seed}_files/{zoom}/{col}_{row}.jpg",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 304: {}, **_FAULTS},
)
async def deep_zoom_tile(
    request: Request,
    slide: Id,
    seed: Seed,
    zoom: Annotated[int, Path(ge=0, le=40)],
    col: Place,
    row: Place,
) -> Response:
    """Return a tile by Deep Zoom numbering; the highest level is 20x, and eight levels exist."""
    entry = _entry(request, slide)
    level = (max(entry.image.size) - 1).bit_length() - zoom
    if not 0 <= level <= COARSEST:
        raise HTTPException(404, "no such level")
    return await tile(request, slide, entry.version, seed, level, col, row, "jpg")


class Session(BaseModel):
    """Confirmation that the browser's cookie is set."""

    ok: bool


@router.post("/api/session", responses={401: _FAULTS[401]})
async def session(request: Request, response: Response) -> Session:
    """Store the request's token in a cookie, for requests that the page makes by itself."""
    token = request.app.state.settings.token
    if token:
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
    return Session(ok=True)


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Report that the server is up, and how many calls wait."""
    service = request.app.state.service
    return {
        "status": "ok",
        "version": __version__,
        "seconds": round(time.monotonic() - _STARTED, 1),
        "waiting": service.making.waiting + service.reading.waiting,
    }


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, 401: _FAULTS[401]},
)
async def metrics(request: Request) -> Response:
    """Return counters and times in Prometheus' text format."""
    page = await asyncio.to_thread(request.app.state.telemetry.page)
    return Response(page, media_type=MEDIA_TYPE)
