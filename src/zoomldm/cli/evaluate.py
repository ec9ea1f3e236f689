"""`zoomldm evaluate`: figures of a pipeline on held-out slides."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE...", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for results.*")],
    archives: Annotated[
        list[Path] | None,
        typer.Option("--archive", help="Archives of held-out slides, made with --for-training."),
    ] = None,
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    judge: Annotated[Path | None, typer.Option(help="Folder of another judge.")] = None,
    tiles: Annotated[int, typer.Option(help="Real tiles of each slide.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure autoencoder, patch encoder and denoiser on slides kept out of training."""
    from zoomldm.cli.output import print_json
    from zoomldm.errors import TargetError
    from zoomldm.evaluation.report import evaluate as run
    from zoomldm.evaluation.report import write_report
    from zoomldm.pipeline import load_pipeline

    if not out.is_dir():
        raise TargetError(f"{out}: is no folder; expected one that exists")

    def say(text: str) -> None:
        typer.echo(f"measuring {text}", err=True)

    figures, picture = run(
        load_pipeline(pipeline), slides, archives or [], tiles=tiles, judge=judge, say=say
    )
    names = " ".join(s.name for s in slides)
    files = write_report(figures, picture, out, f"zoomldm evaluate {names} -o {out.name}")
    if json:
        print_json(figures)
    else:
        typer.echo("\n".join(str(f) for f in files))
