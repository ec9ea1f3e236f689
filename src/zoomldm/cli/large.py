"""`zoomldm large`: a large image of tissue."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.options import Batch, Device, Json, Pipeline


def large(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ARCHIVE[@X,Y]|TILE|GRID.npy",
            help="An archive (from X,Y on, else where most tissue is), an image of one tile, or "
            "an array of embeddings (rows, cols, D).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output as for `decompress`.")],
    size: Annotated[str, typer.Option(metavar="WxH", help="Size in pixels, multiples of 256.")],
    method: Annotated[
        Literal["pyramid", "joint"],
        typer.Option(
            help="pyramid: octave by octave; joint: 20x and one lower magnification together, as "
            "published."
        ),
    ] = "pyramid",
    seed: Annotated[int, typer.Option(help="Noise seed, 0 or more.")] = 0,
    batch: Batch = None,
    guide: Annotated[
        int | None,
        typer.Option(
            help="joint: tiles along each side of a lower-magnification view: 2, 4, 8 or 16.",
            show_default="the most that fits",
        ),
    ] = None,
    start: Annotated[int, typer.Option(help="joint: noise level to start from.")] = 1000,
    stride: Annotated[int, typer.Option(help="joint: noise levels per step.")] = 50,
    extra: Annotated[float, typer.Option(help="joint: guidance w in (1 + w) c - w u.")] = 2.0,
    inner: Annotated[int, typer.Option(help="joint: moves towards the view per step.")] = 10,
    push: Annotated[float, typer.Option(help="joint: step of the finite differences.")] = 0.005,
    rate: Annotated[float, typer.Option(help="joint: size of a move.")] = 0.5,
    seams: Annotated[
        int, typer.Option(help="joint: noise level from which seams are removed; 0: off.")
    ] = 300,
    exact_time: Annotated[
        bool | None,
        typer.Option(
            "--exact-time/--released-time",
            help="joint: give the denoiser the time of its noise, or one more, as released.",
            show_default="as released for converted pipelines, else exact",
        ),
    ] = None,
    pipeline: Pipeline = "demo",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Generate a large image of tissue at 20x."""
    import re

    from zoomldm.cli.output import print_json, progress
    from zoomldm.diffusion.joint import JointSettings
    from zoomldm.errors import ConfigError
    from zoomldm.pipeline import load_pipeline
    from zoomldm.sampling.large import LargeOptions
    from zoomldm.sampling.large import large as run

    sides = re.fullmatch(r"(\d+)x(\d+)", size.strip().lower())
    if not sides:
        raise ConfigError(f"size {size!r}: expected WIDTHxHEIGHT in pixels, such as 4096x4096")
    options = LargeOptions(
        size=(int(sides[1]), int(sides[2])),
        method=method,
        seed=seed,
        batch=batch,
        guide=guide,
        settings=JointSettings(
            start=start,
            stride=stride,
            extra=extra,
            inner=inner,
            push=push,
            rate=rate,
            seams=seams,
        ),
        exact_time=exact_time,
    )
    with progress(quiet=json) as advance:
        report = run(
            source, out, options, pipeline=load_pipeline(pipeline, device), progress=advance
        )
    if json:
        print_json(report.as_dict())
        return
    agreed = "" if report.agreement is None else f", {report.agreement:g}/255 off its view"
    typer.echo(
        f"{report.output}: {report.size[0]} x {report.size[1]} px by {report.method}, "
        f"{report.evaluations_per_tile:g} evaluations per 20x patch{agreed}, "
        f"{report.seconds:.1f} s"
    )
