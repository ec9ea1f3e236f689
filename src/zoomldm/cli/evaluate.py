"""`zoomldm evaluate`: figures of a pipeline; `copies` and `samples` of what it draws."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperGroup

from zoomldm.cli.device import Device
from zoomldm.cli.measures import fidelity, nuclei, rates, show, shown_progress, this_command

if TYPE_CHECKING:
    from zoomldm.sampling.options import SampleOptions


class _SlidesFirst(TyperGroup):
    """`evaluate SLIDE...` is `evaluate networks SLIDE...`."""

    def parse_args(self, ctx, args):
        """Name the command that slides mean."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["networks", *args]
        return super().parse_args(ctx, args)


evaluate = typer.Typer(
    cls=_SlidesFirst,
    no_args_is_help=True,
    help="Measure a pipeline: its networks (`evaluate SLIDE...`), its samples, copies among them, "
    "what archives show; and what bytes buy.",
)
for command in (fidelity, rates, nuclei):
    evaluate.command()(command)


@evaluate.command()
def networks(
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE...", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for results.*")],
    archives: Annotated[
        list[Path] | None,
        typer.Option("--archive", help="Archives of held-out slides, made with --for-training."),
    ] = None,
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    judge: Annotated[Path | None, typer.Option(help="Folder of another judge.")] = None,
    tiles: Annotated[int, typer.Option(help="Real tiles of each slide.")] = 100,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure autoencoder, patch encoder and denoiser on slides kept out of training."""
    from zoomldm.evaluation.options import NetworksOptions
    from zoomldm.evaluation.verbs import evaluate_networks
    from zoomldm.pipeline import load_pipeline

    options = NetworksOptions(archives or (), tiles, judge)
    with shown_progress(json) as progress:
        model = load_pipeline(pipeline, device)
        report = evaluate_networks(
            slides, out, options, pipeline=model, progress=progress, command=this_command()
        )
    show(report, json)


@evaluate.command()
def copies(
    data: Annotated[Path, typer.Option(help="Folder of the training archives.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for copies.*")],
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    n: Annotated[int, typer.Option("-n", help="Samples a level.")] = 64,
    fraction: Annotated[
        float,
        typer.Option("--fraction", "--share", help="Of each slide, withheld from training."),
    ] = 0.1,
    cases: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table with the columns file and case.")
    ] = None,
    holdout: Annotated[
        str, typer.Option(metavar="CASE,...", help="Cases that were kept out of training.")
    ] = "",
    seed: Annotated[int, typer.Option(help="0 or more.")] = 0,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="float32, or bfloat16 (faster).")
    ] = "float32",
    batch: Annotated[int | None, typer.Option(help="Samples a call.")] = None,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Count samples that come nearer to a training patch than withheld tissue does."""
    from zoomldm.evaluation.options import CopiesOptions
    from zoomldm.evaluation.verbs import evaluate_copies
    from zoomldm.pipeline import load_pipeline

    held_out = tuple(c.strip() for c in holdout.split(",") if c.strip())
    options = CopiesOptions(n, fraction, cases, held_out, _plain(seed, precision, batch))
    with shown_progress(json) as progress:
        model = load_pipeline(pipeline, device)
        report = evaluate_copies(
            data, out, options, pipeline=model, progress=progress, command=this_command()
        )
    show(report, json)


@evaluate.command()
def samples(
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE...", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for samples.*")],
    other: Annotated[list[Path], typer.Option(help="A slide of another case; several.")],
    archives: Annotated[
        list[Path], typer.Option("--archive", help="Archives of all these slides, or a folder.")
    ],
    cases: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Columns file and case, where --other has several cases."),
    ] = None,
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    n: Annotated[int, typer.Option("-n", help="Images of each kind and level.")] = 128,
    level: Annotated[
        list[str] | None, typer.Option(help="20x, 10x, ...; several.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(help="0 or more.")] = 0,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="float32, or bfloat16 (faster).")
    ] = "float32",
    batch: Annotated[int | None, typer.Option(help="Samples a call.")] = None,
    judge: Annotated[Path | None, typer.Option(help="Folder of another judge.")] = None,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fréchet distance and KID of samples to real patches of held-out slides."""
    from zoomldm.evaluation.options import SamplesOptions
    from zoomldm.evaluation.verbs import evaluate_samples
    from zoomldm.pipeline import load_pipeline

    options = SamplesOptions(
        other, archives, cases, n, level, judge, _plain(seed, precision, batch)
    )
    with shown_progress(json) as progress:
        model = load_pipeline(pipeline, device)
        report = evaluate_samples(
            slides, out, options, pipeline=model, progress=progress, command=this_command()
        )
    show(report, json)


def _plain(
    seed: int, precision: Literal["float32", "bfloat16"], batch: int | None
) -> "SampleOptions":
    """Samples without guidance of their contexts, which would cost variety."""
    from zoomldm.sampling.options import SampleOptions

    return SampleOptions(
        seed=seed,
        precision=precision,
        batch=batch,
        context_guidance=1.0,
    )
