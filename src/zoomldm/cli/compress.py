"""`zoomldm compress`: slides to archives."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.cohort import Cpus, DryRun, Gpus, Ray, Retries, Split, State, Workers
from zoomldm.cli.import_features import import_features
from zoomldm.cli.options import ArchiveOut, Device, Json, Pipeline, Slides


def compress(
    ctx: typer.Context,
    slides: Slides,
    out: ArchiveOut,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "--overview",
            metavar="LEVEL|none",
            help="Level stored as real pixels, from which rendering starts; 5x if not given.",
        ),
    ] = None,
    base_codec: Annotated[
        Literal["avif", "jpegxl", "webp", "jpeg", "png"],
        typer.Option(help="Codec of the base layer; png is lossless, for training."),
    ] = "avif",
    base_quality: Annotated[
        int | None,
        typer.Option(
            "--base-quality",
            "--quality",
            help="Quality of the base layer, 1 to 100; chosen by --ratio if not given.",
        ),
    ] = None,
    ratio: Annotated[
        float,
        typer.Option(help="Target ratio of slide file to archive; sets the base layer's quality."),
    ] = 45.0,
    precision: Annotated[
        Literal["compact", "int8", "float16"],
        typer.Option(help="Precision of the embeddings; compact uses a basis of the slide's own."),
    ] = "compact",
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel; overrides the slide's own.")
    ] = None,
    tissue: Annotated[
        Literal["otsu", "all"],
        typer.Option(help="Tissue detection: otsu, or all to store every tile."),
    ] = "otsu",
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="ID|ID=PATH|PATH",
            help="Patch encoder to use instead of the pipeline's; `zoomldm models` lists them.",
        ),
    ] = None,
    encoder_precision: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(help="Precision of --encoder; 16-bit types are for GPUs."),
    ] = "float32",
    encoder_batch: Annotated[
        int, typer.Option(min=1, help="Tiles per call of the patch encoder.")
    ] = 32,
    pipeline: Pipeline = "demo",
    for_training: Annotated[
        bool, typer.Option("--for-training", help="Also store what training needs, at all levels.")
    ] = False,
    turn: Annotated[
        int,
        typer.Option(
            help="Turn the slide, for training: quarter turns left, plus 4 to mirror it first."
        ),
    ] = 0,
    from_features: Annotated[bool, typer.Option("--from-features", hidden=True)] = False,
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
    """Compress slides to archives: one embedding per tissue tile."""
    from zoomldm.errors import ConfigError

    if from_features:  # the former spelling of `zoomldm import`
        others = {"slides", "out", "mpp", "precision", "encoder", "from_features", "device", "json"}
        for name in ctx.params.keys() - others:
            if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE":
                option = "--" + name.replace("_", "-")
                raise ConfigError(f"{option} is for slides; features are taken as they are")
        if precision == "compact":  # the default of slides
            precision = "int8"
        import_features(slides, out, mpp, precision, encoder, device=device, json=json)
        return
    from zoomldm.cli.cohort import Running, end, failures_of, reports_of, run_slides
    from zoomldm.cli.jobs import CompressJob, identity
    from zoomldm.cli.output import megabytes, print_json, print_table
    from zoomldm.cli.uploads import uploaded
    from zoomldm.cohort.items import SLIDES, find_items
    from zoomldm.compression.compress import CompressOptions, archive_path
    from zoomldm.encoders import EncoderOptions
    from zoomldm.errors import TargetError
    from zoomldm.remote import is_url

    options = CompressOptions(
        base=base,
        base_codec=base_codec,
        base_quality=base_quality,
        ratio=ratio,
        precision=precision,
        mpp=mpp,
        tissue=tissue,
        for_training=for_training,
        turn=turn,
    )
    cohort = find_items(slides, SLIDES, "slides", split=split)
    if encoder is None and encoder_precision != "float32":
        raise ConfigError(f"--encoder-precision {encoder_precision} needs --encoder")
    how = EncoderOptions(encoder_precision, encoder_batch)
    running = Running(workers, ray, cpus, gpus, retries, state, dry_run)
    place = None if is_url(out) else Path(out)
    many = len(cohort.items) > 1
    named = pipeline, identity(pipeline), encoder, device
    job = CompressJob(place or Path(), options, *named, how, many)
    if place is None:
        job = uploaded(job, out, cohort, running, (".zldm",))
    elif many and not place.is_dir():
        raise TargetError(f"{out}: several slides need an existing folder")
    else:
        archive_path(Path(cohort.items[0].source), place, turn)
    result = run_slides(job, cohort, running, out=place, what="slides", json=json)
    reports = reports_of(result)
    if json:
        print_json(
            {
                "archives": reports,
                "failed": failures_of(result, "slide"),
            }
        )
    else:
        print_table(
            "compressed",
            [
                "archive",
                "tissue tiles",
                "slide",
                "archive size",
                "base layer",
                "ratio",
                "cosine",
                "seconds",
            ],
            [
                [
                    Path(r["archive"]).name,
                    r["tissue_tiles"],
                    megabytes(r["source_bytes"]),
                    megabytes(r["bytes"]),
                    megabytes(r["base_bytes"]),
                    f"{r['ratio']:.1f}",
                    f"{r['cosine_min']:.4f}",
                    "already there" if r["done_before"] else f"{r['seconds']:.1f}",
                ]
                for r in reports
            ],
        )
        for r in reports:
            if r["unreadable"]:
                lost = [tuple(place) for place in r["unreadable"]]
                typer.echo(f"{r['slide']}: unreadable tiles (row, column): {lost}", err=True)
    end(result, "slides", "compressed")
