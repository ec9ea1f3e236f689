"""`zoomldm decompress`: an archive back to pixels."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoomldm.cli.device import Device


def decompress(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help=".tif, .ome.tif or .svs (pyramidal TIFF), .zarr (OME-Zarr), .dcm (folder of "
            "DICOM), .dzi (DeepZoom), .png (one level), or an existing folder.",
        ),
    ],
    level: Annotated[
        str | None,
        typer.Option(
            help="20x, 10x, 5x ... 0.15625x: the finest of an image, the one of a .png. With a "
            ".png, all shows one place at every level."
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H", help="In pixels of the 0.5 mpp raster; else the whole slide."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise: another one, another image.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Evaluations of the denoiser a patch; 6, or 20 for the cascade."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale; 1 is none. 1, or 1.5 for the cascade."),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(help="First timestep, 1 to 999; 999, or 500 for the cascade."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="pyramid: octaves from the base layer down; cascade: the paper's; auto: the "
            "pyramid where the pipeline has it."
        ),
    ] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Of the networks: float32, or bfloat16, which is faster."),
    ] = "float32",
    batch: Annotated[
        int | None, typer.Option(help="Patches per network call; else 1 on a CPU, 32 on a GPU.")
    ] = None,
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    workers: Annotated[
        int, typer.Option(help="Processes that draw; the cores are shared out among them.")
    ] = 1,
    tiff_flavour: Annotated[
        Literal["plain", "ome", "aperio"] | None,
        typer.Option(help="Layout of a .tif; else as its ending says."),
    ] = None,
    geojson: Annotated[
        bool,
        typer.Option(
            "--geojson", help="Write outlines of tissue and confidence of tiles, for QuPath."
        ),
    ] = False,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Turn an archive back into pixels: any region, at any magnification.

    After an interruption the same command goes on where it ended.
    """
    window = parse_region(region) if region is not None else None
    from zoomldm.cli.output import print_json, progress
    from zoomldm.pipeline import load_pipeline
    from zoomldm.rendering.exports import DecompressOptions
    from zoomldm.rendering.exports import decompress as run

    options = DecompressOptions(
        level=level,
        region=window,
        seed=seed,
        steps=steps,
        guidance=guidance,
        start=start,
        method=method,  # type: ignore[arg-type]
        precision=precision,
        batch=batch,
        workers=workers,
        tiff_flavour=tiff_flavour,
        geojson=geojson,
    )
    model = load_pipeline(pipeline, device)
    with progress(quiet=json) as advance:
        report = run(archive, out, options, pipeline=model, progress=advance)
    if json:
        print_json(report.as_dict())
    else:
        _print(report.as_dict())


def parse_region(text: str) -> tuple[int, int, int, int]:
    """Region of `X,Y,W,H`.

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
        count = report["patches"][part["level"]]
        rows.append(
            [
                part["level"],
                f"{part['mpp']:g}",
                f"{part['width']} x {part['height']}",
                part["origin"],
                count["generated"],
            ]
        )
    title = (
        f"{report['output']}: {megabytes(report['bytes'])} in {report['seconds']:.1f} s, "
        f"seed {report['seed']}, {report['steps']} steps, guidance {report['guidance']:g}, "
        f"pipeline {report['pipeline_digest'][:12]}"
    )
    print_table(title, ["level", "mpp", "px", "pixels are", "patches generated"], rows)
