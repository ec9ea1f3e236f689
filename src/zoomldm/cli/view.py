"""`zoomldm view`: archives and slides in a browser, original beside regenerated."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoomldm.cli.options import Device, Json, Pipeline

TOKEN = "ZOOMLDM_VIEWER_TOKEN"  # noqa: S105


def view(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="ARCHIVE_OR_SLIDE",
            show_default=False,
            help="Files; for archives also URLs.",
        ),
    ],
    original: Annotated[
        list[str] | None,
        typer.Option(metavar="SLIDE", help="Slide that an archive was made from; may be repeated."),
    ] = None,
    overlay: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="GEOJSON",
            help="GeoJSON to overlay, such as attention maps of `mil`; may be repeated.",
        ),
    ] = None,
    pipeline: Pipeline = "demo",
    seed: Annotated[
        int, typer.Option(help="Noise seed shown first; others can be chosen in the page.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoiser evaluations per patch.")] = None,
    method: Annotated[
        Literal["auto", "pyramid", "blended", "cascade"],
        typer.Option(help="auto: pyramid if the pipeline has it, else blended."),
    ] = "auto",
    mpp: Annotated[
        float | None,
        typer.Option(help="Micrometres per pixel of all slides, in place of their own."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback requires a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Further host name to accept, behind a proxy; may be repeated."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Tile cache; in the user's cache folder if not given."),
    ] = None,
    cache_mb: Annotated[
        int, typer.Option(min=0, max=1 << 20, help="Megabytes of tiles cached on disk; 0 for none.")
    ] = 2000,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    export: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a static page there instead of serving."),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(help="With --export: finest level. Default: 5x, or 20x with --region."),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="With --export: region in pixels at 0.5 mpp."),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """View archives and slides in a browser, side by side."""
    from zoomldm.cli.decompress import parse_region
    from zoomldm.errors import ConfigError

    if export is None and (level or region):
        raise ConfigError("--level and --region need --export; the viewer itself shows everything")
    window = parse_region(region) if region else None
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the viewer needs {error.name}: pip install 'zoomldm[viewer]'"
        ) from error
    from zoomldm.generation.options import RenderOptions
    from zoomldm.geometry.levels import parse_level
    from zoomldm.pipeline import load_pipeline
    from zoomldm.remote import as_path
    from zoomldm.viewer.catalogue import open_catalogue
    from zoomldm.viewer.overlays import read_overlay

    options = RenderOptions(seed=seed, steps=steps, method=method)
    finest = parse_level(level) if level else None
    layers = [read_overlay(path) for path in overlay or []]
    needed = any(as_path(path).suffix.lower() == ".zldm" for path in inputs)
    catalogue = open_catalogue(
        inputs,
        original or [],
        layers,
        load_pipeline(pipeline, device) if needed else None,
        options,
        mpp,
    )
    if export is not None:
        _export(catalogue, export, finest, window, json)
        return
    _serve(catalogue, host, port, tuple(allow_host or ()), cache, cache_mb, browser, json)


def _export(catalogue: Any, folder: Path, level: int | None, window: Any, as_json: bool) -> None:
    from zoomldm.cli.output import megabytes, print_json, progress
    from zoomldm.viewer.app import PAGE
    from zoomldm.viewer.export import export_page

    try:
        with progress(quiet=as_json) as advance:
            report = export_page(catalogue, PAGE, folder, level, window, progress=advance)
    finally:
        catalogue.close()
    if as_json:
        print_json(report.as_dict())
        return
    typer.echo(
        f"{folder}: {report.tiles} tiles, {megabytes(report.bytes)}; serve it with any file "
        f"server, for example: python -m http.server -d {folder}"
    )


def _serve(
    catalogue: Any,
    host: str,
    port: int,
    names: tuple[str, ...],
    cache: Path | None,
    cache_mb: int,
    browser: bool,
    as_json: bool,
) -> None:
    import secrets

    from zoomldm.cli.output import print_json
    from zoomldm.viewer.app import ViewerSettings, create_app
    from zoomldm.viewer.guard import is_loopback
    from zoomldm.viewer.serve import address_of, bound, serve

    token = os.environ.get(TOKEN) or (None if is_loopback(host) else secrets.token_urlsafe(24))
    sock = bound(host, port)
    settings = ViewerSettings(
        host=host,
        names=names,
        token=token,
        cache=(cache or cache_folder()) if cache_mb else None,
        disk=cache_mb * 10**6,
    )
    app = create_app(catalogue, settings)
    url = address_of(sock, host, token)
    if as_json:
        print_json({"url": url, "slides": list(catalogue.entries)})
    else:
        typer.echo(f"{url}  (Ctrl+C to stop)")
        if token:
            typer.echo(
                "Anyone with this address can see these slides; traffic is not encrypted.", err=True
            )
    serve(app, sock, url if browser else None)


def cache_folder() -> Path:
    """Default folder of the tile cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zoomldm" / "viewer"
