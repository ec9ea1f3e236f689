"""`zoomldm features`: features of archives for other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.cohort import Cpus, DryRun, Gpus, Ray, Retries, Split, State, Workers
from zoomldm.cli.options import Archives, Device, Json, Pipeline


def features(
    archives: Archives,
    out: Annotated[
        str,
        typer.Option(
            "-o", "--out", help="Existing folder, or URL ending in /; one file per archive."
        ),
    ],
    pipeline: Pipeline = "demo",
    source: Annotated[
        Literal["summarizer", "tiles", "unet"],
        typer.Option(
            help="summarizer: 64 tokens per patch; tiles: the stored embeddings; unet: a layer of "
            "the denoiser."
        ),
    ] = "summarizer",
    level: Annotated[
        str | None,
        typer.Option(
            help="Level of the patches.", show_default="0.15625x; 20x with --source tiles"
        ),
    ] = None,
    format: Annotated[
        Literal["h5", "pt", "npy"], typer.Option(help="h5 as in TRIDENT, pt as in CLAM, or npy.")
    ] = "h5",
    fixed: Annotated[
        bool,
        typer.Option(
            "--fixed", help="Take the two patches with most tissue, zero-padded, with a mask."
        ),
    ] = False,
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Precision of the features; int8 only in h5."),
    ] = "float32",
    layer: Annotated[
        str, typer.Option(help="Layer of the denoiser for --source unet: down.0, mid, up.1 ...")
    ] = "mid",
    timestep: Annotated[int, typer.Option(help="Timestep for --source unet, 0 to 999.")] = 50,
    device: Device = "auto",
    workers: Workers = 1,
    ray: Ray = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
    retries: Retries = 2,
    split: Split = None,
    state: State = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Export compact features of slides for MIL and other tools."""
    from zoomldm.cli.cohort import Running, end, failures_of, reports_of, run_slides
    from zoomldm.cli.jobs import FeaturesJob, identity
    from zoomldm.cli.output import megabytes, print_json, print_table
    from zoomldm.cli.uploads import uploaded
    from zoomldm.cohort.items import ARCHIVES, find_items
    from zoomldm.errors import TargetError
    from zoomldm.features.extract import PAPER_RATIO, FeatureOptions
    from zoomldm.remote import is_url

    options = FeatureOptions(
        source=source,
        level=level,
        format=format,
        fixed=fixed,
        precision=precision,
        layer=layer,
        timestep=timestep,
    )
    place = None if is_url(out) else Path(out)
    if place is not None and not place.is_dir():
        raise TargetError(f"{out}: no such folder; -o takes an existing one")
    cohort = find_items(archives, ARCHIVES, "archives", split=split)
    running = Running(workers, ray, cpus, gpus, retries, state, dry_run)
    job = FeaturesJob(place or Path(), options, pipeline, identity(pipeline), device)
    if place is None:
        job = uploaded(job, out, cohort, running, ())
    result = run_slides(job, cohort, running, out=place, what="archives", json=json)
    reports = reports_of(result)
    if json:
        print_json(
            {
                "features": reports,
                "failed": failures_of(result, "archive"),
                "paper_ratio": round(PAPER_RATIO, 3),
            }
        )
    elif reports:
        print_table(
            f"features: {source}, {reports[0]['level']}, {precision}",
            ["file", "features", "values", "float32", "float16", "int8", "ratio"],
            [
                [
                    Path(r["output"]).name + (" (already there)" if r["done_before"] else ""),
                    f"{r['features']} x {r['dim']}",
                    f"{r['values']:,}",
                    *(megabytes(size) for size in r["bytes"].values()),
                    f"{r['ratio']:,.1f}",
                ]
                for r in reports
            ],
        )
        mean = sum(r["tile_values"] for r in reports) / sum(r["values"] for r in reports)
        typer.echo(
            f"ratio: values in the tile embeddings per value in the features, {mean:.1f} over all "
            f"slides; for the paper's (8000 x 384 to 128 x 512) {PAPER_RATIO:.1f}, stated as 45"
        )
    end(result, "archives", "described")
