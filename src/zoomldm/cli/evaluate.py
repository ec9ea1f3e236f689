"""`zoomldm evaluate`: figures of a pipeline; `copies` and `samples` of what it draws."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from zoomldm.cli.device import Device
from zoomldm.cli.measures import fidelity, nuclei, rates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    from zoomldm.cli.output import print_json
    from zoomldm.evaluation.report import evaluate as run
    from zoomldm.evaluation.report import write_report
    from zoomldm.pipeline import load_pipeline

    _check_folder(out)
    figures, picture = run(
        load_pipeline(pipeline, device), slides, archives or [], tiles=tiles, judge=judge, say=_say
    )
    files = write_report(figures, picture, out, _command())
    if json:
        print_json(figures)
    else:
        typer.echo("\n".join(str(f) for f in files))


@evaluate.command()
def copies(
    data: Annotated[Path, typer.Option(help="Folder of the training archives.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for copies.*")],
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    n: Annotated[int, typer.Option("-n", help="Samples a level.")] = 64,
    share: Annotated[float, typer.Option(help="Of each slide, withheld from training.")] = 0.1,
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
    from zoomldm.cli.output import print_json
    from zoomldm.cohort.cases import split_cases
    from zoomldm.errors import ConfigError
    from zoomldm.evaluation.copies import copies_table, measure_copies
    from zoomldm.pipeline import load_pipeline

    _check_folder(out)
    archives = {path.name: path for path in sorted(data.glob("*.zldm"))}
    if not archives:
        raise ConfigError(f"{data}: holds no archives; --data takes a folder of training archives")
    split = split_cases(archives, [c.strip() for c in holdout.split(",") if c.strip()], cases)
    options = _plain(seed, precision, batch)
    figures, picture = measure_copies(
        load_pipeline(pipeline, device),
        [archives[name] for name in split.training],
        [archives[name] for name in split.held_out],
        n=n,
        share=share,
        options=options,
        say=_say,
    )
    table = copies_table(figures)
    _write(
        out,
        "copies",
        figures,
        table,
        picture,
        "Eight pairs nearest to their limit: sample above, its nearest training patch below",
    )
    print_json(figures) if json else typer.echo(table)


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
    n: Annotated[int, typer.Option("-n", help="Pictures of each kind and level.")] = 128,
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
    """Fréchet and kernel distances of samples to real patches of held-out slides."""
    import numpy as np
    from PIL import Image

    from zoomldm.cli.output import print_json
    from zoomldm.cohort.cases import group_cases
    from zoomldm.evaluation.samples import measure_samples, samples_table
    from zoomldm.geometry.levels import COUNT, parse_level
    from zoomldm.pipeline import load_pipeline

    _check_folder(out)
    by_name = {path.name: path for path in other}
    grouped = group_cases(by_name, cases)
    files = [f for p in archives for f in (sorted(p.glob("*.zldm")) if p.is_dir() else [p])]
    figures, pictures = measure_samples(
        load_pipeline(pipeline, device),
        slides,
        {case: [by_name[name] for name in names] for case, names in grouped.items()},
        files,
        n=n,
        levels=[parse_level(v) for v in level] if level else range(COUNT),
        options=_plain(seed, precision, batch),
        judge=judge,
        say=_say,
    )
    strips = [
        np.concatenate(list(kind[:4]), 1) for sets in pictures.values() for kind in sets.values()
    ]
    picture = np.array(Image.fromarray(np.concatenate(strips)).reduce(2))
    table = samples_table(figures)
    shown = ", ".join(next(iter(pictures.values()), {}))
    _write(
        out,
        "samples",
        figures,
        table,
        picture,
        f"Four of each kind, level by level from 20x; rows: {shown}",
    )
    print_json(figures) if json else typer.echo(table)


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


def _command() -> str:
    """The command that runs, paths cut to their last names."""
    import shlex
    import sys

    words = [w if w.startswith("-") else Path(w).name for w in sys.argv[1:]]
    return shlex.join(["zoomldm", *words])


def _say(text: str) -> None:
    typer.echo(f"measuring {text}", err=True)


def _check_folder(out: Path) -> None:
    from zoomldm.errors import TargetError

    if not out.is_dir():
        raise TargetError(f"{out}: is no folder; expected one that exists")


def _write(
    out: Path,
    name: str,
    figures: dict[str, Any],
    table: str,
    picture: "NDArray[np.uint8] | None",
    caption: str,
) -> None:
    """Write figures as JSON, the table as a page, and the picture beside it."""
    from json import dumps

    from PIL import Image

    page = [f"# {name.capitalize()}", "", f"Printed by `{_command()}`; pipeline digest"]
    page += [f"`{figures['digest'][:16]}`.", "", table]
    if picture is not None:
        Image.fromarray(picture).save(out / f"{name}.jpg", quality=80)
        page += ["", f"![{caption}]({name}.jpg)", "", f"{caption}."]
    (out / f"{name}.json").write_text(dumps(figures, indent=1) + "\n")
    (out / f"{name}.md").write_text("\n".join(page) + "\n")
