"""The command line: one file per verb; each parses, calls one function, prints one result."""

import os
import sys
import traceback
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from zoomldm.cli.compress import compress
from zoomldm.cli.convert import convert
from zoomldm.cli.decompress import decompress
from zoomldm.cli.demo import demo
from zoomldm.cli.doctor import doctor
from zoomldm.cli.edit import edit
from zoomldm.cli.evaluate import evaluate
from zoomldm.cli.features import features
from zoomldm.cli.import_features import import_features
from zoomldm.cli.info import info
from zoomldm.cli.large import large
from zoomldm.cli.mil import mil
from zoomldm.cli.models import models
from zoomldm.cli.push import push
from zoomldm.cli.sample import sample
from zoomldm.cli.train import train
from zoomldm.cli.upscale import upscale
from zoomldm.cli.verify import verify
from zoomldm.cli.view import view
from zoomldm.errors import ZoomLDMError

_INTERRUPTED = 130

app = typer.Typer(
    name="zoomldm",
    no_args_is_help=True,
    # Help is shown as written: `[brackets]` are not markup.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from zoomldm import __version__

        typer.echo(f"zoomldm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Log all steps and print tracebacks; may also follow the verb."
        ),
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Append the log of all steps, with tracebacks, to a file."
        ),
    ] = None,
) -> None:
    """Store whole-slide images as embeddings and turn them back into images."""
    from zoomldm.cli.logs import set_up

    set_up(debug, log)


_VERBS = (
    *(compress, decompress, view, info, verify, sample, large, upscale, edit, features, mil),
    *(train, convert, push, models, doctor, demo),
)
for verb in _VERBS:
    app.command()(verb)
app.command("import")(import_features)
app.add_typer(evaluate, name="evaluate")


def main() -> NoReturn:
    """Run the command line; a user's mistake gives one line and an exit code, no traceback."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):  # names the terminal can't show must not fail
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TQDM_DISABLE", "1")  # verbs print their own progress, not diffusers
    try:
        code = app(_arguments(), prog_name="zoomldm", standalone_mode=False)
    except ZoomLDMError as error:
        _fail(error, error.exit_code, error)
    except typer.Abort:
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        _fail(f"{named}{error.strerror or error}", 2, error)
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "OutOfMemoryError" in kinds:  # PyTorch's; torch isn't imported here
            _fail("the GPU's memory is full: pass a smaller --batch, or --device cpu", 2, error)
        # The name of click's exceptions depends on typer's version.
        if "ClickException" not in kinds:
            _log(error)
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "zoomldm"
        message = error.format_message().rstrip(".").replace("Value error, ", "")  # type: ignore
        _fail(f"{message}; see `{command} --help`", 2)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _fail("interrupted; run the same command again to resume where possible", _INTERRUPTED)
    sys.exit(code or 0)


def _arguments() -> list[str]:
    """Arguments given, with `--debug` moved to the front if it stands before `--`."""
    given = sys.argv[1:] or ["--help"]
    end = given.index("--") if "--" in given else len(given)
    if "--debug" in given[:end]:
        given = ["--debug", *(a for a in given[:end] if a != "--debug"), *given[end:]]
    return given


def _fail(message: object, code: int, error: BaseException | None = None) -> NoReturn:
    if error is not None:
        _log(error)
    typer.echo("zoomldm: " + " ".join(str(message).splitlines()), err=True)
    sys.exit(code)


def _log(error: BaseException) -> None:
    """Log an error in full, for `--debug` and `--log`."""
    import logging

    logging.getLogger(__name__).debug("%s", "".join(traceback.format_exception(error)).rstrip())


def _show_warning(message: object, *_: object, **__: object) -> None:
    typer.echo("zoomldm: warning: " + " ".join(str(message).splitlines()), err=True)
