"""Where the library's log goes: warnings to the terminal, on request more, and to a file."""

import logging
from pathlib import Path

import typer


class _Terminal(logging.Handler):
    """Lines on standard error, as all of the command line's are."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, warnings on one line."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: " + " ".join(text.splitlines())
        typer.echo(f"zoomldm: {text}", err=True)


def set_up(debug: bool, file: Path | None) -> None:
    """Send the package's log to the terminal and perhaps to a file.

    Args:
        debug: everything to the terminal; else warnings alone.
        file: everything to this file too, with times, after what it holds.

    Raises:
        TargetError: the file can't be written.
    """
    logger = logging.getLogger("zoomldm")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG if debug or file else logging.WARNING)
    logger.propagate = False
    terminal = _Terminal(logging.DEBUG if debug else logging.WARNING)
    logger.addHandler(terminal)
    if file is None:
        return
    try:
        written = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        from zoomldm.errors import TargetError

        raise TargetError(f"--log {file}: can't be written ({error.strerror})") from error
    written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(written)
