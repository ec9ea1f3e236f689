"""The command line: one file a verb, each of which parses, calls one function, prints one result."""

import sys
from typing import NoReturn

import typer

from zoomldm.cli.compress import compress
from zoomldm.cli.decompress import decompress
from zoomldm.cli.doctor import doctor
from zoomldm.cli.evaluate import evaluate
from zoomldm.cli.info import info
from zoomldm.cli.train import train
from zoomldm.cli.verify import verify
from zoomldm.errors import ZoomLDMError

app = typer.Typer(
    name="zoomldm",
    help="Whole-slide images kept as embeddings and turned back into pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (compress, decompress, info, verify, train, evaluate, doctor):
    app.command()(verb)


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line and an exit code, never a traceback."""
    try:
        app()
    except ZoomLDMError as error:
        typer.echo(f"zoomldm: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("zoomldm: interrupted; the same command goes on where it can", err=True)
        sys.exit(130)
    sys.exit(0)
