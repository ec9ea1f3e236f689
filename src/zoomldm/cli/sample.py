"""`zoomldm sample`: new tissue."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.device import Device


def sample(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder; made if its parent exists.")],
    level: Annotated[
        str | None, typer.Option(help="20x, 10x, ... 0.15625x, or all.", show_default="all")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--number", help="Samples a level, or zooms.", show_default="16; 1 zoom"
        ),
    ] = None,
    zoom: Annotated[
        bool, typer.Option("--zoom", help="Zoom into imaginary slides, all levels of each.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="TILE.png|ARCHIVE@X,Y",
            help="Tissue like this tile: an image of 256 px at 0.5 mpp, or the tile at a pixel "
            "of an archive at 20x.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Tissue of this label; see `zoomldm train --labels`.")
    ] = None,
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    seed: Annotated[int, typer.Option(help="0 or more.")] = 0,
    steps: Annotated[int, typer.Option(help="Of the denoiser.")] = 20,
    guidance: Annotated[float, typer.Option(help="Of the denoiser; 1 is none.")] = 1.5,
    context_steps: Annotated[int, typer.Option(help="Of the embedding diffusion.")] = 50,
    context_guidance: Annotated[
        float | None,
        typer.Option(
            help="Of the embedding diffusion; 1 is none.",
            show_default="4 with --like or --label, else 1",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="float32, or bfloat16 (faster).")
    ] = "float32",
    batch: Annotated[
        int | None, typer.Option(help="Samples a call.", show_default="1 on a CPU, 32 on a GPU")
    ] = None,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Draw new tissue at any magnification, or zoom into an imaginary slide."""
    from zoomldm.cli.output import print_json, progress
    from zoomldm.pipeline import load_pipeline
    from zoomldm.sampling.exports import SheetOptions, write_samples
    from zoomldm.sampling.options import SampleOptions

    options = SheetOptions(
        levels=None if level is None or (level == "all" and not zoom) else (level,),
        n=n,
        zoom=zoom,
        like=like,
        label=label,
        samples=SampleOptions(
            seed=seed,
            steps=steps,
            guidance=guidance,
            context_steps=context_steps,
            context_guidance=context_guidance,
            precision=precision,
            batch=batch,
        ),
    )
    with progress(quiet=json) as advance:
        model = load_pipeline(pipeline, device)
        report = write_samples(out, options, pipeline=model, progress=advance)
    if json:
        print_json(report.as_dict())
    else:
        typer.echo(f"{len(report.samples)} images, {out / report.sheet}")
