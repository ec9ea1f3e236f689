"""`zoomldm convert`: a published checkpoint to a pipeline."""

from pathlib import Path
from typing import Annotated

import typer

from zoomldm.cli.options import Json


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", show_default=False, help="Checkpoint file of released weights."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Directory to create.  [required]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", hidden=True)] = None,
    ema: Annotated[
        bool,
        typer.Option("--ema/--raw", help="Take the averaged weights, or those of the last step."),
    ] = True,
    json: Json = False,
) -> None:
    """Turn a released ZoomLDM checkpoint into a pipeline directory."""
    from zoomldm.cli.output import print_json, print_table
    from zoomldm.released.conversion import ConvertOptions, convert_released

    out = out or output  # the option's former name
    if out is None:
        raise typer.BadParameter("missing; expected a directory to create", param_hint="'--out'")
    report = convert_released(checkpoint, out, ConvertOptions("ema" if ema else "raw"))
    if json:
        print_json(report.as_dict())
        return
    rows = [[k.replace("_", " "), f"{v:,}"] for k, v in report.parameters.items()]
    done = " (already there)" if report.done_before else ""
    print_table(f"{report.pipeline}{done}", ["network", "parameters"], rows)
