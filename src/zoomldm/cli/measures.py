"""`zoomldm evaluate fidelity`, `rates` and `nuclei`: measures down to cells, as pages."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoomldm.cli.cohort import Cpus, DryRun, Gpus, Ray, Retries, Split, State, Workers
from zoomldm.cli.options import Batch, Device, Json, Judge, Pipeline, Precision, Slides

if TYPE_CHECKING:
    from zoomldm.cohort.items import Cohort
    from zoomldm.cohort.runner import Result
    from zoomldm.verbs import Progress

_Page = Annotated[
    Path, typer.Option("-o", "--out", metavar="PAGE.md", help="Page to write; images go beside it.")
]


def fidelity(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="SLIDE ARCHIVE...",
            show_default=False,
            help="Pairs; with --archives only slides, or folders, globs or tables of them.",
        ),
    ],
    out: _Page,
    archives: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the slides' archives, each NAME.zldm, or a URL ending in /.",
        ),
    ] = None,
    pipeline: Pipeline = "demo",
    level: Annotated[
        list[str] | None,
        typer.Option(help="Level to measure; may be repeated.", show_default="20x, 10x and 5x"),
    ] = None,
    tiles: Annotated[int, typer.Option(min=4, help="Patches per level.")] = 100,
    regions: Annotated[int, typer.Option(min=0, help="Square regions of 1,024 px.")] = 2,
    codec: Annotated[
        Literal["avif", "jpegxl", "webp", "jpeg"],
        typer.Option(help="Codec to compare with, at the same bytes."),
    ] = "avif",
    alone: Annotated[
        bool,
        typer.Option(
            "--alone/--no-alone", help="Also measure embeddings alone, without the base layer."
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Noise seed, 0 or more.")] = 0,
    steps: Annotated[int | None, typer.Option(help="As for `decompress`.")] = None,
    guidance: Annotated[float | None, typer.Option(help="As for `decompress`.")] = None,
    method: Annotated[
        Literal["auto", "pyramid", "blended", "cascade"], typer.Option(help="As for `decompress`.")
    ] = "auto",
    precision: Precision = "float32",
    batch: Batch = None,
    judge: Judge = None,
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
    """Compare rendered archives with their slides.

    Takes pairs of SLIDE ARCHIVE, or slides with --archives.
    """
    from zoomldm.cli.cohort import Running
    from zoomldm.cli.jobs import identity
    from zoomldm.cli.measure_jobs import FidelityJob, measured
    from zoomldm.evaluation.fidelity_page import check_page, write_fidelity
    from zoomldm.evaluation.options import FidelityOptions
    from zoomldm.generation.options import RenderOptions

    cohort = _pairs(files, archives, split)
    check_page(out)
    render = RenderOptions(
        seed=seed,
        steps=steps,
        guidance=guidance,
        precision=precision,
        batch=batch,
        method=method,
    )
    options = FidelityOptions(level, tiles, regions, codec, alone, judge, render)
    running = Running(workers, ray, cpus, gpus, retries, state, dry_run)
    named = pipeline, identity(pipeline), device
    with measured(
        lambda parts: FidelityJob(parts, options, *named), cohort, running, out, json
    ) as found:
        sheets = {name: sheet for images in found.images for name, sheet in images.items()}
        written = write_fidelity(found.figures, sheets, out, this_command())
        show(found.figures, written, found.result, json)


def _pairs(files: list[str], archives: str | None, split: str | None) -> "Cohort":
    """Pair slides with their archives.

    Raises:
        ConfigError: an archive is missing, or no slides.
    """
    from zoomldm.cohort.items import SLIDES, Cohort, find_items
    from zoomldm.errors import ConfigError
    from zoomldm.remote import is_url

    if archives is not None:
        found = find_items(files, SLIDES, "slides", split=split)
        folder = archives if is_url(archives) else f"{archives.rstrip('/')}/"
        mates = [f"{folder}{item.key}.zldm" for item in found.items]
    else:
        if len(files) % 2:
            raise ConfigError(
                f"{len(files)} files; expected pairs of a slide and its archive, SLIDE ARCHIVE "
                "..., or slides and --archives FOLDER"
            )
        found, mates = find_items(files[::2], SLIDES, "slides", split=split), files[1::2]
        if not found.named or len(found.items) != len(mates):
            raise ConfigError(
                "folders, globs and tables of slides need --archives FOLDER, and no slide may be "
                "named twice"
            )
    items = [replace(item, mate=mate) for item, mate in zip(found.items, mates, strict=True)]
    return Cohort(items, found.named)


def rates(
    slides: Slides,
    out: _Page,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODEC:LEVEL:BYTES",
            help="avif:5x:235 (bytes per tissue tile), or none:5x; may be repeated. [default: "
            "those of archives of 100:1 to 30:1]",
            show_default=False,
        ),
    ] = None,
    archive: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RATIO:BASE",
            help="Archive to make, render and measure beside AVIF of the same total bytes: 45:5x, "
            "or none; may be repeated.",
            show_default=False,
        ),
    ] = None,
    pipeline: Annotated[
        str, typer.Option(help="Pipeline id or directory, for --archive.")
    ] = "demo",
    level: Annotated[
        list[str] | None,
        typer.Option(help="Level to measure; may be repeated.", show_default="20x, 10x and 5x"),
    ] = None,
    tiles: Annotated[int, typer.Option(min=4, help="Patches per level.")] = 100,
    regions: Annotated[int, typer.Option(min=0, help="Square regions of 1,024 px.")] = 2,
    judge: Judge = None,
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
    """Measure slides stored at many bit rates.

    Rows are stored as they are measured, so an interrupted run can resume.
    """
    from zoomldm.cli.cohort import Running
    from zoomldm.cli.jobs import identity
    from zoomldm.cli.measure_jobs import RatesJob, measured
    from zoomldm.cohort.items import SLIDES, find_items
    from zoomldm.evaluation.archive_rates import parse_archive
    from zoomldm.evaluation.codecs import parse_setting
    from zoomldm.evaluation.comparison import Judges
    from zoomldm.evaluation.fidelity_page import check_page
    from zoomldm.evaluation.judge import load_judge
    from zoomldm.evaluation.options import RatesOptions
    from zoomldm.evaluation.public_features import PublicFeatures
    from zoomldm.evaluation.rate_study import rates_page
    from zoomldm.pipeline.loading import pick_device

    options = RatesOptions(setting or (), archive or (), level, tiles, regions, judge)
    check_page(out)
    for given in options.settings:
        parse_setting(given)
    for given in options.archives:
        parse_archive(given)
    cohort = find_items(slides, SLIDES, "slides", split=split)
    running = Running(workers, ray, cpus, gpus, retries, state, dry_run)
    keep = out.with_suffix(".rows.json") if cohort.named and workers == 1 and not ray else None
    named = (pipeline, identity(pipeline), device) if options.archives else ("", "", device)
    with measured(
        lambda parts: RatesJob(parts, options, keep, *named), cohort, running, out, json
    ) as found:
        place = pick_device(device)
        judges = Judges(PublicFeatures(place), load_judge(options.judge, place))
        report = rates_page(
            found.figures["rows"], found.slides, judges, out, options, this_command()
        )
        show(report.figures, report.files, found.result, json)


def nuclei(
    slides: Slides,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="SHEET.jpg", help="Image to write.")],
    tiles: Annotated[int, typer.Option(min=1, help="Tiles per slide.")] = 10,
    split: Split = None,
    json: Json = False,
) -> None:
    """Outline the nuclei found on tiles, for visual inspection."""
    from zoomldm.cli.cohort import named_files
    from zoomldm.cli.output import print_json
    from zoomldm.cohort.items import SLIDES
    from zoomldm.evaluation.verbs import draw_nuclei

    report = draw_nuclei(named_files(slides, SLIDES, "slides", split), out, tiles)
    print_json(report.figures) if json else typer.echo(str(out))


@contextmanager
def shown_progress(quiet: bool) -> Iterator["Progress"]:
    """Show the progress of a measure on the terminal."""
    from zoomldm.cli.output import progress

    with progress(quiet) as advance:
        yield advance


def show(
    figures: Mapping[str, Any], files: Sequence[Path], result: "Result | None", json: bool
) -> None:
    """Print figures and failures as JSON, or the names of the files written."""
    from zoomldm.cli.cohort import failures_of
    from zoomldm.cli.output import print_json
    from zoomldm.verbs import plain

    if json:
        printed = {**{k: plain(v) for k, v in figures.items()}, "files": plain(files)}
        if result is not None:
            printed["failed"] = failures_of(result, "slide")
        print_json(printed)
    else:
        typer.echo("\n".join(str(file) for file in files))


def this_command() -> str:
    """Return the running command line, with paths cut to their last component."""
    import shlex
    import sys

    words = [w if w.startswith("-") else Path(w).name for w in sys.argv[1:]]
    return shlex.join(["zoomldm", *words])
