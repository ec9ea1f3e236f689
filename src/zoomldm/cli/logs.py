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


class _Lines(logging.Handler):
    """What a verb says while it runs, plain lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print what is no warning; those go to the terminal anyway."""
        if record.levelno < logging.WARNING:
            typer.echo(record.getMessage(), err=True)


_shown: list[tuple[logging.Logger, logging.Handler]] = []


def show_lines(*names: str) -> None:
    """Print what these parts of the package log, as lines of their own.

    Args:
        names: of loggers. With `--debug` all is printed already.
    """
    terminals = [h for h in logging.getLogger("zoomldm").handlers if isinstance(h, _Terminal)]
    if any(terminal.level <= logging.INFO for terminal in terminals):
        return
    for name in names:
        logger, handler = logging.getLogger(name), _Lines(logging.INFO)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        _shown.append((logger, handler))


def set_up(debug: bool, file: Path | None) -> None:
    """Send the package's log to the terminal and perhaps to a file.

    Args:
        debug: everything to the terminal; else warnings alone.
        file: everything to this file too, with times, after what it holds.

    Raises:
        TargetError: the file can't be written.
    """
    while _shown:
        part, line = _shown.pop()
        part.removeHandler(line)
        part.setLevel(logging.NOTSET)
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
