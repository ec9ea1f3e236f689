"""`zoomldm decompress`: an archive back to pixels."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoomldm.cli.cohort import Cpus, DryRun, Gpus, Ray, Retries, Split, State
from zoomldm.cli.options import Archives, Batch, Device, Json, Pipeline


def decompress(
    archives: Archives,
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            help=".tif, .ome.tif or .svs (pyramidal TIFF), .zarr (OME-Zarr), .dcm (folder of "
            "DICOM), .dzi (DeepZoom), .png (one level), an existing folder, or a URL.",
        ),
    ],
    format: Annotated[
        Literal["tif", "ome.tif", "svs", "zarr", "dcm", "dzi", "png"] | None,
        typer.Option(help="Format of images in a folder; tif if not given."),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            help="Finest level of the image, or the level of a .png: 20x, 10x, 5x ... 0.15625x. "
            "For a .png, all shows one place at every level."
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H", help="Region in pixels at 0.5 mpp; the whole slide if not given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Noise seed; another seed gives another image.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Denoiser evaluations per patch. Default: 3, or 6 without a base layer at "
            "2.5x or finer, or 20 for a cascade."
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale; 1 is none. Default: 1, or 1.5 for a cascade."),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(help="First timestep, 1 to 999. Default: 999, or 500 for a cascade."),
    ] = None,
    method: Annotated[
        Literal["auto", "pyramid", "blended", "cascade"],
        typer.Option(
            help="pyramid: octaves from the base layer down; cascade: the paper's; blended: the "
            "cascade in overlapping windows; auto: pyramid if the pipeline has it, else blended."
        ),
    ] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Precision of the networks: float32, or bfloat16 (faster)."),
    ] = "float32",
    batch: Batch = None,
    pipeline: Pipeline = "demo",
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes, which share the cores. With one archive each renders parts of it; "
            "with several, whole archives.",
        ),
    ] = 1,
    tiff_flavour: Annotated[
        Literal["plain", "ome", "aperio"] | None,
        typer.Option(help="Layout of a .tif; set by the file's ending if not given."),
    ] = None,
    memory: Annotated[
        int,
        typer.Option(
            min=0, metavar="MB", help="Cache of generated pixels for reuse; less is slower."
        ),
    ] = 256,
    geojson: Annotated[
        bool,
        typer.Option(
            "--geojson", help="Also write tissue outlines and tile confidence, for QuPath."
        ),
    ] = False,
    device: Device = "auto",
    ray: Ray = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
    retries: Retries = 2,
    split: Split = None,
    state: State = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Render archives: any region, at any magnification.

    After an interruption, run the same command again to resume.
    """
    window = parse_region(region) if region is not None else None
    from zoomldm.cli.cohort import Running, end, failures_of, reports_of, run_slides
    from zoomldm.cli.jobs import DecompressJob, identity
    from zoomldm.cli.output import print_json
    from zoomldm.cli.uploads import uploaded
    from zoomldm.cohort.items import ARCHIVES, find_items
    from zoomldm.remote import is_url
    from zoomldm.rendering.exports import DecompressOptions

    cohort = find_items(archives, ARCHIVES, "archives", split=split)
    one = len(cohort.items) == 1
    _check_target(out, one, format)
    options = DecompressOptions(
        level=level,
        region=window,
        seed=seed,
        steps=steps,
        guidance=guidance,
        start=start,
        method=method,
        precision=precision,
        batch=batch,
        workers=workers if one and ray is None else 1,
        tiff_flavour=tiff_flavour,
        geojson=geojson,
        memory=memory << 20,
    )
    running = Running(1 if one else workers, ray, cpus, gpus, retries, state, dry_run)
    place = None if is_url(out) else Path(out)
    job = DecompressJob(
        place or Path(), options, pipeline, identity(pipeline), device, f".{format or 'tif'}"
    )
    if place is None:
        job = uploaded(job, out, cohort, running, (".tif", ".tiff", ".svs", ".png"))
    result = run_slides(job, cohort, running, out=place, what="archives", json=json)
    reports = reports_of(result)
    if json and one and cohort.named:
        print_json(reports[0])
    elif json:
        print_json({"images": reports, "failed": failures_of(result, "archive")})
    elif one and reports:
        _print(reports[0])
    elif reports:
        _print_several(reports)
    end(result, "archives", "rendered")


def _check_target(out: str, one: bool, format: str | None) -> None:
    """Refuse a target that can't take the output.

    Raises:
        ConfigError: a format without a folder, or one that can't be uploaded.
        TargetError: several archives and no folder.
    """
    from zoomldm.errors import ConfigError, TargetError
    from zoomldm.remote import is_url
    from zoomldm.writers.registry import ending

    remote, place = is_url(out), Path(out)
    folder = out.endswith("/") if remote else place.is_dir() and ending(place) is None
    if not one and not folder:
        wanted = "a URL ending in /" if remote else "an existing folder"
        raise TargetError(f"{out}: several archives need {wanted}")
    if format is not None and not folder:
        raise ConfigError(
            f"{out}: --format {format} is for images in a folder; a file's ending sets its own"
        )
    if remote and format in ("zarr", "dcm", "dzi"):
        raise ConfigError(
            f"{out}: {format} is many files, which can't be uploaded as one; expected --format "
            "tif, ome.tif, svs or png"
        )


def parse_region(text: str) -> tuple[int, int, int, int]:
    """Parse a region `X,Y,W,H`.

    Raises:
        RegionError: not four whole numbers.
    """
    from zoomldm.errors import RegionError

    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError as error:
        raise RegionError(
            f"region {text!r} is not X,Y,W,H: four whole numbers, pixels of the 0.5 mpp raster"
        ) from error
    return x, y, w, h


def _print(report: dict[str, Any]) -> None:
    from zoomldm.cli.output import megabytes, print_table

    rows = []
    for part in report["levels"]:
        # in a pyramid, levels from 10x on come from 20x windows or a stored level
        count = report["patches"].get(part["level"])
        rows.append(
            [
                part["level"],
                f"{part['mpp']:g}",
                f"{part['width']} x {part['height']}",
                part["origin"],
                count["generated"] if count else "-",
            ]
        )
    title = (
        f"{report['output']}: {megabytes(report['bytes'])} in {report['seconds']:.1f} s, "
        f"{_generated(report)} patches generated, "
        f"seed {report['seed']}, {report['steps']} steps, guidance {report['guidance']:g}, "
        f"pipeline {report['pipeline_digest'][:12]}"
    )
    print_table(title, ["level", "mpp", "px", "pixels", "patches generated"], rows)


def _generated(report: dict[str, Any]) -> int:
    """Patches (windows in a pyramid) generated for a report's image, over all levels."""
    return sum(count["generated"] for count in report["patches"].values())


def _print_several(reports: list[dict[str, Any]]) -> None:
    from zoomldm.cli.output import megabytes, print_table

    print_table(
        "rendered",
        ["image", "finest level", "px", "patches generated", "size", "seconds"],
        [
            [
                Path(r["output"]).name,
                r["levels"][0]["level"],
                f"{r['levels'][0]['width']} x {r['levels'][0]['height']}",
                _generated(r),
                megabytes(r["bytes"]),
                "already there" if r.get("done_before") else f"{r['seconds']:.1f}",
            ]
            for r in reports
        ],
    )
