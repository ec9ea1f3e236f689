"""Where the package's log goes: warnings to the terminal, on request more, and to a file."""

import logging
from pathlib import Path

import typer


class _Terminal(logging.Handler):
    """Lines on standard error, like all lines of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, a warning on one line."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: " + " ".join(text.splitlines())
        typer.echo(f"zoomldm: {text}", err=True)


class _Lines(logging.Handler):
    """Plain lines on standard error that a verb logs while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record below warning level; warnings are printed anyway."""
        if record.levelno < logging.WARNING:
            typer.echo(record.getMessage(), err=True)


_shown: list[tuple[logging.Logger, logging.Handler]] = []


def show_lines(*names: str) -> None:
    """Print what parts of the package log, as plain lines.

    Args:
        names: names of loggers. With `--debug` everything is printed already.
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
    """Send the package's log to the terminal and optionally to a file.

    Args:
        debug: print everything; otherwise only warnings.
        file: append everything to this file too, with times.

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
