"""`zoomldm evaluate fidelity`, `rates` and `nuclei`: measures that see cells, as pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoomldm.cli.device import Device

if TYPE_CHECKING:
    from zoomldm.evaluation.options import EvaluateReport
    from zoomldm.verbs import Progress

_Page = Annotated[
    Path, typer.Option("-o", "--out", metavar="PAGE.md", help="The page; images beside it.")
]
_Judge = Annotated[Path | None, typer.Option(help="Folder of another judge.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def fidelity(
    files: Annotated[list[Path], typer.Argument(metavar="SLIDE ARCHIVE...", show_default=False)],
    out: _Page,
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    level: Annotated[list[str] | None, typer.Option(help="20x, 10x, ...; several.")] = None,
    tiles: Annotated[int, typer.Option(min=4, help="Patches of each level.")] = 100,
    regions: Annotated[int, typer.Option(min=0, help="Squares of 1,024 px.")] = 2,
    codec: Annotated[
        Literal["avif", "jxl", "webp", "jpeg"], typer.Option(help="Of the plain alternative.")
    ] = "avif",
    alone: Annotated[
        bool, typer.Option("--alone/--no-alone", help="Also without the base layer.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the noise, 0 or more.")] = 0,
    steps: Annotated[int | None, typer.Option(help="As in decompress.")] = None,
    guidance: Annotated[float | None, typer.Option(help="As in decompress.")] = None,
    method: Annotated[
        Literal["auto", "pyramid", "cascade"], typer.Option(help="As in decompress.")
    ] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="float32, or bfloat16 (faster).")
    ] = "float32",
    batch: Annotated[int | None, typer.Option(help="Patches per network call.")] = None,
    judge: _Judge = None,
    device: Device = "auto",
    json: _Json = False,
) -> None:
    """Hold what archives show against their slides: pairs of SLIDE ARCHIVE, one or several."""
    from zoomldm.errors import ConfigError
    from zoomldm.evaluation.options import FidelityOptions
    from zoomldm.evaluation.verbs import evaluate_fidelity
    from zoomldm.generation.options import RenderOptions
    from zoomldm.pipeline import load_pipeline

    if len(files) % 2:
        raise ConfigError(
            f"{len(files)} files; expected pairs of a slide and its archive: SLIDE ARCHIVE ..."
        )
    render = RenderOptions(
        seed=seed,
        steps=steps,
        guidance=guidance,
        precision=precision,
        batch=batch,
        method=method,
    )
    options = FidelityOptions(level, tiles, regions, codec, alone, judge, render)
    pairs = list(zip(files[::2], files[1::2], strict=True))
    with shown_progress(json) as progress:
        model = load_pipeline(pipeline, device)
        report = evaluate_fidelity(
            pairs, out, options, pipeline=model, progress=progress, command=this_command()
        )
    show(report, json)


def rates(
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE...", show_default=False)],
    out: _Page,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODEC:LEVEL:BYTES",
            help="avif:5x:235, or none:5x; several. [default: those of archives of 100 to 30:1]",
            show_default=False,
        ),
    ] = None,
    level: Annotated[list[str] | None, typer.Option(help="Measured at; several.")] = None,
    tiles: Annotated[int, typer.Option(min=4, help="Patches of each level.")] = 100,
    regions: Annotated[int, typer.Option(min=0, help="Squares of 1,024 px.")] = 2,
    judge: _Judge = None,
    json: _Json = False,
) -> None:
    """Measure slides stored by codecs at many rates; rows are kept, so it goes on if stopped."""
    from zoomldm.evaluation.options import RatesOptions
    from zoomldm.evaluation.verbs import evaluate_rates

    options = RatesOptions(setting or (), level, tiles, regions, judge)
    with shown_progress(json) as progress:
        report = evaluate_rates(slides, out, options, progress=progress, command=this_command())
    show(report, json)


def nuclei(
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE...", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="SHEET.jpg")],
    tiles: Annotated[int, typer.Option(min=1, help="Tiles of each slide.")] = 10,
    json: _Json = False,
) -> None:
    """Draw outlines of the nuclei that are found on tiles of slides, to be looked at."""
    from zoomldm.cli.output import print_json
    from zoomldm.evaluation.verbs import draw_nuclei

    report = draw_nuclei(slides, out, tiles)
    print_json(report.figures) if json else typer.echo(str(out))


@contextmanager
def shown_progress(quiet: bool) -> Iterator["Progress"]:
    """Progress of a measure on the terminal."""
    from zoomldm.cli.output import progress

    with progress(quiet) as advance:
        yield advance


def show(report: "EvaluateReport", json: bool) -> None:
    """Print a report: its figures, or the files that it wrote."""
    from zoomldm.cli.output import print_json

    if json:
        print_json(report.as_dict())
    else:
        typer.echo("\n".join(str(file) for file in report.files))


def this_command() -> str:
    """The command that runs, paths cut to their last names."""
    import shlex
    import sys

    words = [w if w.startswith("-") else Path(w).name for w in sys.argv[1:]]
    return shlex.join(["zoomldm", *words])
