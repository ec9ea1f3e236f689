"""`zoomldm sample`: new tissue."""

from pathlib import Path
from typing import Annotated, Any

import typer

from zoomldm.cli.options import Device, Json, Pipeline, Precision


def sample(
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="Folder, created if its parent exists; with --slide a .zldm file."
        ),
    ],
    level: Annotated[
        str | None, typer.Option(help="20x, 10x, ... 0.15625x, or all.", show_default="all")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--number", help="Samples per level, or zooms.", show_default="16; 1 zoom"
        ),
    ] = None,
    zoom: Annotated[
        bool, typer.Option("--zoom", help="Zoom into imaginary slides through all levels.")
    ] = False,
    slide: Annotated[
        bool,
        typer.Option("--slide", help="Write an imaginary slide: an archive rendered on reading."),
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="With --slide: size in mm.", show_default="4x3"),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="TILE.png|ARCHIVE@X,Y",
            help="Tissue like this tile: an image of 256 px at 0.5 mpp, or an archive's tile at "
            "pixel X,Y of 20x; with --slide also an archive alone, for its most typical tile.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Tissue with this label; see `zoomldm train --labels`.")
    ] = None,
    pipeline: Pipeline = "demo",
    seed: Annotated[int, typer.Option(help="Noise seed, 0 or more.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the denoiser.", show_default="8, or 20 if it takes no parent"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance of the denoiser; 1 is none.",
            show_default="1.5, or 1 if it takes a parent",
        ),
    ] = None,
    context_steps: Annotated[
        int | None,
        typer.Option(help="Steps of the embedding diffusion.", show_default="20"),
    ] = None,
    finer_steps: Annotated[
        int | None,
        typer.Option(
            help="With --slide: steps of the embedding diffusion from 1.25x on.", show_default="8"
        ),
    ] = None,
    context_guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance of the embedding diffusion; 1 is none.",
            show_default="4 with --like or --label, else 1",
        ),
    ] = None,
    precision: Precision = "float32",
    batch: Annotated[
        int | None,
        typer.Option(help="Samples per network call.", show_default="1 on a CPU, 32 on a GPU"),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Sample new tissue, zooms into it, or a whole imaginary slide."""
    from zoomldm.cli.output import print_json, progress
    from zoomldm.errors import ConfigError
    from zoomldm.pipeline import load_pipeline
    from zoomldm.sampling.exports import SheetOptions, write_samples
    from zoomldm.sampling.options import SampleOptions

    if slide:
        if level is not None or zoom or n is not None:
            raise ConfigError(
                "--slide writes one slide of all levels; leave --level, --zoom and -n out"
            )
        if steps is not None or guidance is not None or precision != "float32":
            raise ConfigError(
                "--steps, --guidance and --precision are those of whoever renders the slide; "
                "leave them out with --slide"
            )
        given = size, like, label, seed, context_steps, finer_steps, context_guidance, batch
        return _slide(out, *given, pipeline=pipeline, device=device, json=json)
    if size is not None or finer_steps is not None:
        raise ConfigError("--size and --finer-steps go with --slide")
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
            context_guidance=context_guidance,
            precision=precision,
            batch=batch,
            **_known(context_steps=context_steps),
        ),
    )
    with progress(quiet=json) as advance:
        model = load_pipeline(pipeline, device)
        report = write_samples(out, options, pipeline=model, progress=advance)
    if json:
        print_json(report.as_dict())
    else:
        typer.echo(f"{len(report.samples)} images, {out / report.sheet}")


def _known(**options: Any) -> dict[str, Any]:
    """Options that were given; the others take the package's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _slide(
    out: Path,
    size: str | None,
    like: str | None,
    label: str | None,
    seed: int,
    steps: int | None,
    finer_steps: int | None,
    guidance: float | None,
    batch: int | None,
    pipeline: str,
    device: str,
    json: bool,
) -> None:
    import re

    from zoomldm.cli.output import print_json, progress
    from zoomldm.errors import ConfigError
    from zoomldm.pipeline import load_pipeline
    from zoomldm.sampling.imaginary import SlideOptions, sample_slide

    number = r"(\d+(?:\.\d+)?)"
    sides = re.fullmatch(f"{number}x{number}", (size or "4x3").strip().lower())
    if not sides:
        raise ConfigError(f"size {size!r}: expected WIDTHxHEIGHT in mm, such as 4x3")
    options = SlideOptions(
        size=(float(sides[1]), float(sides[2])),
        like=like,
        label=label,
        seed=seed,
        guidance=guidance,
        batch=batch,
        **_known(steps=steps, finer_steps=finer_steps),
    )
    with progress(quiet=json) as advance:
        report = sample_slide(
            out, options, pipeline=load_pipeline(pipeline, device), progress=advance
        )
    if json:
        print_json(report.as_dict())
        return
    typer.echo(
        f"{report.output}: {report.mm[0]:g} x {report.mm[1]:g} mm, {report.tissue_tiles} of "
        f"{report.tiles} tiles hold tissue, all of it generated; {report.bytes} bytes, "
        f"{report.seconds:.1f} s"
    )
