"""`zoomldm import`: features of other tools to archives."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.cohort import Cpus, DryRun, Gpus, Ray, Retries, Split, State, Workers
from zoomldm.cli.options import ArchiveOut, Device, Json


def import_features(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE.h5...",
            show_default=False,
            help="Feature files, folders or globs of them, or tables (slide,case,label,split).",
        ),
    ],
    out: ArchiveOut,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel; overrides the file's own.")
    ] = None,
    precision: Annotated[
        Literal["compact", "int8", "float16"], typer.Option(help="Precision of the embeddings.")
    ] = "int8",
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="ID|ID=PATH|PATH|auto",
            help="Patch encoder that made the features; auto takes the one named in each file. "
            "`zoomldm models` lists them.",
        ),
    ] = None,
    encoder_precision: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(
            help="Precision of --encoder, which embeds a white tile; 16-bit types are for GPUs."
        ),
    ] = "float32",
    workers: Workers = 1,
    ray: Ray = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
    retries: Retries = 2,
    split: Split = None,
    state: State = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Turn tile features of TRIDENT, CLAM or STAMP into archives."""
    from zoomldm.cli.cohort import Running, end, failures_of, reports_of, run_slides
    from zoomldm.cli.jobs import ImportJob
    from zoomldm.cli.output import megabytes, print_json, print_table
    from zoomldm.cli.uploads import uploaded
    from zoomldm.cohort.items import FEATURES, find_items
    from zoomldm.encoders import EncoderOptions
    from zoomldm.errors import ConfigError, TargetError
    from zoomldm.features.to_archive import ImportOptions, slide_name
    from zoomldm.remote import is_url

    cohort = find_items(files, FEATURES, "files", lambda f: slide_name(Path(f)), split)
    running = Running(workers, ray, cpus, gpus, retries, state, dry_run)
    place = None if is_url(out) else Path(out)
    if encoder is None and encoder_precision != "float32":
        raise ConfigError(f"--encoder-precision {encoder_precision} needs --encoder")
    how = EncoderOptions(encoder_precision)
    job = ImportJob(place or Path(), ImportOptions(mpp, precision), encoder, device, how)
    if place is None:
        job = uploaded(job, out, cohort, running, (".zldm",))
    elif len(cohort.items) > 1 and not place.is_dir():
        raise TargetError(f"{out}: several files need an existing folder")
    result = run_slides(job, cohort, running, out=place, what="files", json=json)
    reports = reports_of(result)
    if json:
        print_json({"archives": reports, "failed": failures_of(result, "features")})
    elif reports:
        print_table(
            "archives of features",
            ["archive", "layout", "tissue tiles", "dimension", "encoder", "size"],
            [
                [
                    Path(m["archive"]).name,
                    m["layout"],
                    m["tissue_tiles"],
                    m["dim"],
                    m["encoder"]["id"],
                    megabytes(m["bytes"]),
                ]
                for m in reports
            ],
        )
    end(result, "files", "imported")
