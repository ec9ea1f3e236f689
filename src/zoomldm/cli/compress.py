"""`zoomldm compress`: slides to archives."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.device import Device
from zoomldm.cli.import_features import import_features


def compress(
    ctx: typer.Context,
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE...", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="File .zldm, or an existing folder.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "--overview",
            metavar="LEVEL|none",
            help="Level kept as the real picture that rendering starts from; 5x if not given.",
        ),
    ] = None,
    base_codec: Annotated[
        Literal["avif", "jpegxl", "webp", "jpeg", "png"],
        typer.Option(help="Of the base layer; png is lossless, to train on."),
    ] = "avif",
    base_quality: Annotated[
        int | None,
        typer.Option(
            "--base-quality", "--quality", help="1 to 100; if not given, chosen by --ratio."
        ),
    ] = None,
    ratio: Annotated[
        float,
        typer.Option(
            help="Choose the base layer's quality so that the slide is this many times the archive."
        ),
    ] = 45.0,
    precision: Annotated[
        Literal["compact", "int8", "float16"],
        typer.Option(help="Of the embeddings; compact is in a basis of the slide's own."),
    ] = "compact",
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel, over what the slide says.")
    ] = None,
    tissue: Annotated[
        Literal["otsu", "all"], typer.Option(help="otsu, or all to keep every tile.")
    ] = "otsu",
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="ID|ID=PATH|PATH",
            help="Patch encoder to take instead of the pipeline's; `zoomldm models` lists them.",
        ),
    ] = None,
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    for_training: Annotated[
        bool, typer.Option("--for-training", help="Store latents of patches at all levels too.")
    ] = False,
    turn: Annotated[
        int, typer.Option(help="Mirror and turn the slide, 1 to 7: more training data of it.")
    ] = 0,
    from_features: Annotated[bool, typer.Option("--from-features", hidden=True)] = False,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Keep a slide as one embedding per tissue tile."""
    from zoomldm.errors import ConfigError

    if from_features:  # how `import` was called before it was a verb
        others = {"slides", "out", "mpp", "precision", "encoder", "from_features", "device", "json"}
        for name in ctx.params.keys() - others:
            if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE":
                option = "--" + name.replace("_", "-")
                raise ConfigError(f"{option} is for slides; features are taken as they are")
        if precision == "compact":  # the default of slides
            precision = "int8"
        import_features(slides, out, mpp, precision, encoder, json)
        return
    from zoomldm.cli.output import megabytes, print_json, print_table, progress
    from zoomldm.compression.compress import CompressOptions, archive_path
    from zoomldm.compression.compress import compress as run
    from zoomldm.encoders import load_encoder
    from zoomldm.errors import SomeFailedError, TargetError, ZoomLDMError
    from zoomldm.pipeline import load_pipeline

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
    if len(slides) > 1 and not out.is_dir():
        raise TargetError(f"{out}: several slides need an existing folder")
    targets = [archive_path(s, out, turn) for s in slides]
    if len(set(targets)) < len(targets):
        raise TargetError(f"{out}: two of the slides have the same name; compress them apart")
    model = load_pipeline(pipeline, device)
    chosen = load_encoder(encoder, device) if encoder else None
    reports, failures = [], []
    for slide in slides:
        try:
            with progress(quiet=json) as advance:
                reports.append(
                    run(
                        slide,
                        out,
                        options,
                        pipeline=model,
                        name=pipeline,
                        encoder=chosen,
                        progress=advance,
                    )
                )
        except ZoomLDMError as error:
            if len(slides) == 1:
                raise
            failures.append((slide, error))
            typer.echo(f"zoomldm: {error}", err=True)
    if json:
        print_json(
            {
                "archives": [r.as_dict() for r in reports],
                "failed": [{"slide": str(s), "error": str(e)} for s, e in failures],
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
                    Path(r.archive).name,
                    r.tissue_tiles,
                    megabytes(r.source_bytes),
                    megabytes(r.bytes),
                    megabytes(r.base_bytes),
                    f"{r.ratio:.1f}",
                    f"{r.cosine_min:.4f}",
                    "there already" if r.done_before else f"{r.seconds:.1f}",
                ]
                for r in reports
            ],
        )
        for r in reports:
            if r.unreadable:
                typer.echo(f"{r.slide}: unreadable tiles (row, column): {r.unreadable}", err=True)
    if failures:
        if not reports:
            raise ZoomLDMError(f"none of the {len(slides)} slides could be compressed")
        raise SomeFailedError(
            f"{len(failures)} of {len(slides)} slides failed: "
            + ", ".join(str(s) for s, _ in failures)
        )
