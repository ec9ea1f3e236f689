"""The command line: one file a verb; each parses, calls one function, prints one result."""

import os
import sys
import warnings
from typing import NoReturn

import typer

from zoomldm.cli.compress import compress
from zoomldm.cli.convert import convert
from zoomldm.cli.decompress import decompress
from zoomldm.cli.doctor import doctor
from zoomldm.cli.evaluate import evaluate
from zoomldm.cli.features import features
from zoomldm.cli.info import info
from zoomldm.cli.mil import mil
from zoomldm.cli.models import models
from zoomldm.cli.sample import sample
from zoomldm.cli.train import train
from zoomldm.cli.verify import verify
from zoomldm.errors import ZoomLDMError

_INTERRUPTED = 130

app = typer.Typer(
    name="zoomldm",
    help="Whole-slide images kept as embeddings and turned back into pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_VERBS = (
    *(compress, decompress, info, verify, sample, features, mil),
    *(train, convert, models, doctor),
)
for verb in _VERBS:
    app.command()(verb)
app.add_typer(evaluate, name="evaluate")


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line and an exit code, never a traceback."""
    warnings.showwarning = _show_warning
    os.environ.setdefault("TQDM_DISABLE", "1")  # diffusers shows bars where a verb prints lines
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="zoomldm", standalone_mode=False)
    except ZoomLDMError as error:
        _fail(error, error.exit_code)
    except typer.Abort:
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        _fail(f"{named}{error.strerror or error}", 2)
    except Exception as error:
        # typer brings click's exceptions under one name or another, depending on its version.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "zoomldm"
        _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`", 2)  # type: ignore
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _fail("interrupted; the same command goes on where it can", _INTERRUPTED)
    sys.exit(code or 0)


def _fail(message: object, code: int) -> NoReturn:
    typer.echo("zoomldm: " + " ".join(str(message).splitlines()), err=True)
    sys.exit(code)


def _show_warning(message: object, *_: object, **__: object) -> None:
    typer.echo("zoomldm: warning: " + " ".join(str(message).splitlines()), err=True)
