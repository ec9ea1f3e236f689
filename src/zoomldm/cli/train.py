"""`zoomldm train`: networks trained on your own slides."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoomldm.cli.options import Device, Json

if TYPE_CHECKING:
    from zoomldm.training.train import TrainOptions


def train(
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of archives (made with --for-training) or its URL, folder of slides, or "
            "table of either (slide,case,label,split)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of the run.")] = None,
    preset: Annotated[
        Literal["tiny", "tiny-octaves", "demo", "base", "paper"],
        typer.Option(help="Network sizes and training settings."),
    ] = "demo",
    stage: Annotated[
        Literal[
            "diffusion",
            "embedding-diffusion",
            "context-network",
            "autoencoder",
            "patch-encoder",
            "judge",
        ],
        typer.Option(
            help="Which networks to train: the first three from archives, the others from slides."
        ),
    ] = "diffusion",
    pipeline: Annotated[
        str | None,
        typer.Option(help="Pipeline id or directory with the frozen networks (default: demo)."),
    ] = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Start from the pipeline's weights.")
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Patch encoder of the archives, if not the pipeline's."),
    ] = None,
    holdout: Annotated[
        str, typer.Option(metavar="CASE,...", help="Cases to hold out of training.")
    ] = "",
    cases: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table with the columns file and case.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Labels by file, for --stage embedding-diffusion."),
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column of --labels.")] = "label",
    steps: Annotated[int | None, typer.Option(help="Training steps of the whole run.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Items per step and process.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, data order and noise.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this long; the same command resumes.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; may be repeated."),
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print all settings and the memory needed.")
    ] = False,
    json: Json = False,
) -> None:
    """Train networks on your own slides.

    After an interruption, the same command resumes from the last checkpoint.
    """
    import os

    from zoomldm.cli.logs import show_lines
    from zoomldm.cli.output import print_json, print_table
    from zoomldm.errors import ConfigError
    from zoomldm.training.train import TrainOptions
    from zoomldm.training.train import train as run

    changes: dict[str, object] = {}
    for text in settings or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected KEY=VALUE")
        changes[key.strip()] = value.strip()
    given = {"steps": steps, "batch_size": batch_size, "seed": seed, "threads": threads}
    changes |= {k: v for k, v in given.items() if v is not None}
    options = TrainOptions(
        stage=stage,
        preset=preset,
        settings=changes,
        finetune=finetune,
        encoder=encoder,
        holdout=[c.strip() for c in holdout.split(",") if c.strip()],
        cases=cases,
        labels=labels,
        label_column=label_column,
        minutes=minutes,
        device=device,
    )
    if dry_run:
        _plan(data, options, pipeline, json)
        return
    for name, value in (("--data", data), ("--out", out)):
        if value is None:
            raise ConfigError(f"{name} is missing; it is optional only with --dry-run")
    assert data is not None and out is not None
    if not json:
        show_lines("zoomldm.training", "zoomldm.data")
    report = run(data, out, options, pipeline=pipeline)
    if os.environ.get("RANK", "0") != "0":
        return  # under `accelerate launch`, one process reports
    if json:
        print_json(report.as_dict())
    else:
        print_table("trained", ["", ""], [[k, v] for k, v in report.as_dict().items()])


def _plan(data: str | None, options: "TrainOptions", pipeline: str | None, json: bool) -> None:
    """Print what a run would do."""
    from zoomldm.cli.output import megabytes, print_json, print_table
    from zoomldm.training.plan import plan_training

    plan = plan_training(data, options, pipeline=pipeline)
    if json:
        totals = [{**vars(part), "total": part.total} for part in plan.memory]
        print_json({**plan.as_dict(), "memory": totals})
        return
    rows = [["preset", plan.preset], *([k, v] for k, v in plan.settings.items())]
    if data is not None:
        rows += [["slides", len(plan.training)], ["held out", len(plan.held_out)]]
    print_table(f"would train {plan.stage}", ["", ""], rows)
    print_table(
        f"memory of each process on a {'GPU' if plan.gpu else 'CPU'}, at most",
        [
            "stage",
            "batch",
            "trained",
            "parameters",
            "gradients",
            "optimiser",
            "average",
            "activations",
            "total",
        ],
        [
            [
                part.stage,
                part.batch,
                f"{part.trained / 1e6:.1f} M",
                *(
                    f"{count / 1e9:.2f} GB" if count >= 1e9 else megabytes(count)
                    for count in (
                        part.parameters,
                        part.gradients,
                        part.optimizer,
                        part.average,
                        part.activations,
                        part.total,
                    )
                ),
            ]
            for part in plan.memory
        ],
    )
