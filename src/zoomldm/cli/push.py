"""`zoomldm push`: a pipeline to the Hugging Face hub."""

from typing import Annotated

import typer

from zoomldm.cli.options import Json


def push(
    pipeline: Annotated[
        str,
        typer.Argument(metavar="PIPELINE", show_default=False, help="As for --pipeline elsewhere."),
    ],
    repo: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME", show_default=False, help="Name on the Hugging Face hub."
        ),
    ],
    licence: Annotated[
        str,
        typer.Option(
            "--licence", "--license", help="Licence of the weights: mit, cc-by-nc-4.0, ..."
        ),
    ],
    data: Annotated[str, typer.Option(help="What it was trained on, for the model card.")] = "",
    public: Annotated[
        bool, typer.Option("--public", help="Make a newly created repository public.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    json: Json = False,
) -> None:
    """Push a pipeline to the Hugging Face hub, with a model card."""
    from zoomldm.cli.output import print_json
    from zoomldm.pipeline import load_pipeline
    from zoomldm.pipeline.hub import push_pipeline

    result = push_pipeline(
        load_pipeline(pipeline),
        repo,
        licence=licence,
        private=not public,
        data=data,
        message=message,
    )
    if json:
        print_json(result)
    else:
        typer.echo(f"{result['url']}\n--pipeline {result['pipeline']}")
