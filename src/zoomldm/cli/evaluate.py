"""`zoomldm evaluate`: measure a pipeline, and with `copies` and `samples` what it generates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperGroup

from zoomldm.cli.cohort import Cpus, DryRun, Gpus, Ray, Retries, Split, State, Workers
from zoomldm.cli.measures import (
    fidelity,
    nuclei,
    rates,
    show,
    shown_progress,
    this_command,
)
from zoomldm.cli.options import Device, Json, Judge, Pipeline, Precision, Slides
from zoomldm.errors import TargetError

if TYPE_CHECKING:
    from zoomldm.sampling.options import SampleOptions


class _SlidesFirst(TyperGroup):
    """Take `evaluate SLIDE...` as `evaluate networks SLIDE...`."""

    def parse_args(self, ctx, args):
        """Insert `networks` before slides."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["networks", *args]
        return super().parse_args(ctx, args)


evaluate = typer.Typer(
    cls=_SlidesFirst,
    no_args_is_help=True,
    help="Measure networks, samples and archives on held-out slides.\n\n"
    "`evaluate SLIDE...` is short for `evaluate networks SLIDE...`.",
)
for command in (fidelity, rates, nuclei):
    evaluate.command()(command)


@evaluate.command()
def networks(
    slides: Slides,
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for results.*")],
    archives: Annotated[
        list[str] | None,
        typer.Option(
            "--archive",
            help="Archive of a held-out slide, made with --for-training, or folder of them; may be "
            "repeated.",
        ),
    ] = None,
    pipeline: Pipeline = "demo",
    judge: Judge = None,
    tiles: Annotated[int, typer.Option(help="Real tiles per slide.")] = 100,
    device: Device = "auto",
    workers: Workers = 1,
    ray: Ray = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
    retries: Retries = 2,
    split: Split = None,
    state: State = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Measure the networks of a pipeline on held-out slides.

    They are the autoencoder, the patch encoder and the denoiser.
    """
    from zoomldm.cli.cohort import Running, named_files
    from zoomldm.cli.jobs import identity
    from zoomldm.cli.measure_jobs import NetworksJob, measured
    from zoomldm.cohort.items import ARCHIVES, SLIDES, find_items
    from zoomldm.evaluation.options import NetworksOptions
    from zoomldm.evaluation.verbs import networks_page

    if not out.is_dir():
        raise TargetError(f"{out}: is not a folder; expected an existing one")
    cohort = find_items(slides, SLIDES, "slides", split=split)
    held_out = named_files(archives, ARCHIVES, "archives") if archives else []
    options = NetworksOptions(held_out, tiles, judge)
    running = Running(workers, ray, cpus, gpus, retries, state, dry_run)
    named = pipeline, identity(pipeline), device
    with measured(
        lambda parts: NetworksJob(parts, options, *named), cohort, running, out / "networks", json
    ) as found:
        strips = [images["strips"] for images in found.images]
        report = networks_page(
            found.figures, strips, out, options, (pipeline, device), this_command()
        )
        show(report.figures, report.files, found.result, json)


@evaluate.command()
def copies(
    data: Annotated[Path, typer.Option(help="Folder of the training archives.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for copies.*")],
    pipeline: Pipeline = "demo",
    n: Annotated[int, typer.Option("-n", "--number", help="Samples per level.")] = 64,
    fraction: Annotated[
        float,
        typer.Option(
            "--fraction", "--share", help="Fraction of each slide withheld from training."
        ),
    ] = 0.1,
    cases: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table with the columns file and case.")
    ] = None,
    holdout: Annotated[
        str, typer.Option(metavar="CASE,...", help="Cases held out of training.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Noise seed, 0 or more.")] = 0,
    precision: Precision = "float32",
    batch: Annotated[int | None, typer.Option(help="Samples per network call.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Count samples nearer to training patches than withheld tissue."""
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
    show(report.figures, report.files, None, json)


@evaluate.command()
def samples(
    slides: Slides,
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for samples.*")],
    other: Annotated[
        list[str], typer.Option(help="Slide of another case, or a folder of them; may be repeated.")
    ],
    archives: Annotated[
        list[Path],
        typer.Option(
            "--archive", help="Archive of one of these slides, or a folder; may be repeated."
        ),
    ],
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Table with the columns file and case, if --other has several cases.",
        ),
    ] = None,
    pipeline: Pipeline = "demo",
    n: Annotated[int, typer.Option("-n", "--number", help="Images of each kind per level.")] = 128,
    level: Annotated[
        list[str] | None, typer.Option(help="20x, 10x, ...; may be repeated.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(help="Noise seed, 0 or more.")] = 0,
    precision: Precision = "float32",
    batch: Annotated[int | None, typer.Option(help="Samples per network call.")] = None,
    judge: Judge = None,
    split: Split = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Compare samples with real patches of held-out slides.

    Reports Fréchet distance and KID.
    """
    from zoomldm.cli.cohort import named_files
    from zoomldm.cohort.items import SLIDES
    from zoomldm.evaluation.options import SamplesOptions
    from zoomldm.evaluation.verbs import evaluate_samples
    from zoomldm.pipeline import load_pipeline

    files = named_files(slides, SLIDES, "slides", split)
    others = named_files(other, SLIDES, "slides")
    options = SamplesOptions(
        others, archives, cases, n, level, judge, _plain(seed, precision, batch)
    )
    with shown_progress(json) as progress:
        model = load_pipeline(pipeline, device)
        report = evaluate_samples(
            files, out, options, pipeline=model, progress=progress, command=this_command()
        )
    show(report.figures, report.files, None, json)


def _plain(
    seed: int, precision: Literal["float32", "bfloat16"], batch: int | None
) -> "SampleOptions":
    """Sample without context guidance, which would reduce variety."""
    from zoomldm.sampling.options import SampleOptions

    return SampleOptions(
        seed=seed,
        precision=precision,
        batch=batch,
        context_guidance=1.0,
    )
