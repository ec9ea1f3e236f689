"""`zoomldm mil`: train and compare multiple-instance learning models on features."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.options import Json


def mil(
    features: Annotated[
        list[str],
        typer.Option(
            "--features",
            metavar="[NAME=]PATH",
            help="Folder of h5, pt or npy files, one per slide, or one npz, or the URL of either "
            "(a folder's ends in /); repeat to compare.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Existing folder for the results.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV with slide_id, label and perhaps case_id; optional for an npz."),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Folder of splits_<k>.csv with train, val, test.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Draw this many folds by patient instead.")
    ] = None,
    models: Annotated[
        str, typer.Option(help="Models, comma-separated; append :hipt or :original for a variant.")
    ] = "clam-sb,dsmil,abmil,max-instance,mean-pool,max-pool,logistic",
    fraction: Annotated[
        str, typer.Option(help="Fractions of the training slides, comma-separated.")
    ] = "0.25,1.0",
    seeds: Annotated[str, typer.Option(help="Training seeds, comma-separated.")] = "1",
    protocol: Annotated[
        Literal["hipt", "clean"],
        typer.Option(
            help="hipt: as published, last epoch; clean: no patient in both train and test, epoch "
            "chosen by validation."
        ),
    ] = "hipt",
    epochs: Annotated[int | None, typer.Option(help="Epochs instead of the protocol's 20.")] = None,
    jobs: Annotated[
        int,
        typer.Option("--workers", "--jobs", help="Single-threaded processes; 0: one per CPU."),
    ] = 0,
    label_column: Annotated[str, typer.Option(help="Column of --labels.")] = "label",
    slide_column: Annotated[str, typer.Option(help="Column of --labels.")] = "slide_id",
    patient_column: Annotated[
        str | None, typer.Option(help="Column of --labels; case_id if there is one.")
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Class to set against all others together.")
    ] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Write attention maps of test slides, PNG and GeoJSON.")
    ] = False,
    plots: Annotated[bool, typer.Option(help="Write ROC and per-fold plots.")] = True,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one. Small bags are faster "
            "on the CPU."
        ),
    ] = "cpu",
    as_json: Json = False,
) -> None:
    """Train and compare multiple-instance learning (MIL) models.

    After an interruption, run the same command again to resume.

    Prints the paper's table (AUC of CLAM-SB and DSMIL by feature source), all models with
    AUC, balanced accuracy and F1 per fold, and how many patients are in both train and test.
    """
    from zoomldm.cli.output import print_json, progress
    from zoomldm.errors import ConfigError
    from zoomldm.mil.run import MilOptions, run_mil

    named: dict[str, Path | str] = {}
    for given in features:
        name, path = _named(given)
        if name in named:
            raise ConfigError(f"two feature sources named {name!r}: give them as NAME=PATH")
        named[name] = path
    options = MilOptions(
        labels=labels,
        splits=splits,
        folds=folds,
        models=tuple(m.strip() for m in models.split(",") if m.strip()),
        fractions=tuple(_numbers("--fraction", fraction, float)),
        seeds=tuple(_numbers("--seeds", seeds, int)),
        protocol=protocol,
        epochs=epochs,
        jobs=jobs,
        label_column=label_column,
        slide_column=slide_column,
        patient_column=patient_column,
        positive=positive,
        maps=maps,
        plots=plots,
        device=device,
    )
    with progress(quiet=as_json) as advance:
        report = run_mil(named, out, options, progress=advance)
    if as_json:
        print_json(report.as_dict())
    else:
        typer.echo(report.text())


def _named(given: str) -> tuple[str, Path | str]:
    from zoomldm.remote import as_path, is_url

    name, equals, path = given.partition("=")
    if not equals or "://" in name or Path(given).exists():
        name, path = as_path(given).stem, given
    return name, path if is_url(path) else Path(path)


def _numbers(option: str, text: str, kind: type) -> list:
    from zoomldm.errors import ConfigError

    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"{option} {text}: expected numbers separated by commas") from None
