"""`zoomldm upscale`: an image of known scale, enlarged."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.options import Batch, Device, Json, Pipeline


def upscale(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", show_default=False, help="PNG, JPEG or TIFF of known scale."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output as for `decompress`.")],
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the image.")],
    factor: Annotated[
        int | None, typer.Option(help="2, 4 or 8.", show_default="what reaches 20x, 8 at most")
    ] = None,
    seed: Annotated[int, typer.Option(help="Noise seed; another seed gives another image.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Denoiser evaluations per patch.",
            show_default="3, or 6 for images coarser than 2.5x",
        ),
    ] = None,
    batch: Batch = None,
    method: Annotated[
        Literal["pyramid", "inversion"],
        typer.Option(
            help="pyramid: octave by octave; inversion: search for the image's embeddings, then "
            "joint sampling, as published."
        ),
    ] = "pyramid",
    inversion_steps: Annotated[
        int, typer.Option(help="inversion: steps of the search for embeddings.")
    ] = 200,
    stride: Annotated[int, typer.Option(help="inversion: noise levels per step.")] = 50,
    inner: Annotated[int, typer.Option(help="inversion: moves towards the image per step.")] = 5,
    seams: Annotated[
        int, typer.Option(help="inversion: noise level from which seams are removed; 0: off.")
    ] = 300,
    pipeline: Pipeline = "demo",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Enlarge an image of known scale 2, 4 or 8 times, up to 20x."""
    from zoomldm.cli.output import print_json, progress
    from zoomldm.diffusion.inversion import InversionSettings
    from zoomldm.diffusion.joint import JointSettings
    from zoomldm.pipeline import load_pipeline
    from zoomldm.sampling.upscale import UpscaleOptions
    from zoomldm.sampling.upscale import upscale as run

    options = UpscaleOptions(
        mpp,
        factor,
        seed,
        steps,
        batch,
        method,
        InversionSettings(steps=inversion_steps),
        JointSettings(stride=stride, inner=inner, seams=seams),
    )
    with progress(quiet=json) as advance:
        model = load_pipeline(pipeline, device)
        report = run(image, out, options, pipeline=model, progress=advance)
    if json:
        print_json(report.as_dict())
        return
    typer.echo(
        f"{report.output}: {report.output_size[0]} x {report.output_size[1]} px at "
        f"{report.output_level}, generated; averaged down it is at most {report.most_off:.2f}/255 "
        f"off the image{', resampled to ' + report.level if report.resampled else ''}; "
        f"{report.seconds:.1f} s"
    )
