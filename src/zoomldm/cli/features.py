"""`zoomldm features`: archives to numbers that other tools read."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.device import Device


def features(
    archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder; a file per archive.")],
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    source: Annotated[
        Literal["summarizer", "tiles", "unet"],
        typer.Option(
            help="summarizer: 64 tokens a patch; tiles: the stored embeddings; unet: a layer of "
            "the denoiser."
        ),
    ] = "summarizer",
    level: Annotated[
        str | None, typer.Option(help="Of the patches.", show_default="0.15625x")
    ] = None,
    format: Annotated[
        Literal["h5", "pt", "npy"], typer.Option(help="h5 as TRIDENT's, pt as CLAM's, or npy.")
    ] = "h5",
    fixed: Annotated[
        bool,
        typer.Option("--fixed", help="The two patches with most tissue, zero-padded, with a mask."),
    ] = False,
    precision: Annotated[
        Literal["float32", "float16", "int8"], typer.Option(help="Of the numbers; int8 is for h5.")
    ] = "float32",
    layer: Annotated[
        str, typer.Option(help="Of the denoiser, with --source unet: down.0, mid, up.1 ...")
    ] = "mid",
    timestep: Annotated[int, typer.Option(help="Of the denoiser, 0 to 999.")] = 50,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Describe slides in few numbers, for multiple-instance learning and other tools."""
    from zoomldm.cli.output import megabytes, print_json, print_table, progress
    from zoomldm.errors import SomeFailedError, TargetError, ZoomLDMError
    from zoomldm.features.extract import PAPER_RATIO, FeatureOptions
    from zoomldm.features.extract import extract_features as run
    from zoomldm.pipeline import load_pipeline

    options = FeatureOptions(
        source=source,
        level=level,
        format=format,
        fixed=fixed,
        precision=precision,
        layer=layer,
        timestep=timestep,
    )
    if not out.is_dir():
        raise TargetError(f"{out}: no such folder; -o takes an existing one")
    if len({a.stem for a in archives}) < len(archives):
        raise TargetError(f"{out}: two of the archives have the same name; describe them apart")
    model = pipeline if source == "tiles" else load_pipeline(pipeline, device)
    reports, failures = [], []
    with progress(quiet=json) as advance:
        for done, archive in enumerate(archives):
            advance("slides", done, len(archives))
            try:
                reports.append(run(archive, out, options, pipeline=model))
            except ZoomLDMError as error:
                if len(archives) == 1:
                    raise
                failures.append((archive, error))
                typer.echo(f"zoomldm: {error}", err=True)
        advance("slides", len(archives), len(archives))
    if json:
        print_json(
            {
                "features": [r.as_dict() for r in reports],
                "failed": [{"archive": str(a), "error": str(e)} for a, e in failures],
                "paper_ratio": round(PAPER_RATIO, 3),
            }
        )
    elif reports:
        print_table(
            f"features: {source}, {reports[0].level}, {precision}",
            ["file", "features", "values", "float32", "float16", "int8", "ratio"],
            [
                [
                    Path(r.output).name + (" (there already)" if r.done_before else ""),
                    f"{r.features} x {r.dim}",
                    f"{r.values:,}",
                    *(megabytes(size) for size in r.bytes.values()),
                    f"{r.ratio:,.1f}",
                ]
                for r in reports
            ],
        )
        mean = sum(r.tile_values for r in reports) / sum(r.values for r in reports)
        typer.echo(
            f"ratio: numbers in the tile embeddings for one in the features, {mean:.1f} over all "
            f"slides; on the paper's (8000 x 384 to 128 x 512) {PAPER_RATIO:.1f}, stated as 45"
        )
    if failures:
        if not reports:
            raise ZoomLDMError(f"none of the {len(archives)} archives could be described")
        raise SomeFailedError(
            f"{len(failures)} of {len(archives)} archives failed: "
            + ", ".join(str(a) for a, _ in failures)
        )
