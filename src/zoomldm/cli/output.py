"""What verbs print: JSON, tables, progress."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_ANY_WIDTH = 1_000_000


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


def print_json(value: Any) -> None:
    """Print one JSON document on standard output; NaN and infinity become null."""
    typer.echo(json.dumps(_finite(value), indent=1, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on standard output; `[brackets]` in text are not markup.

    Cells are never broken. If the terminal is too narrow for the table, each row becomes a block
    of lines. Without a terminal, the width is the table's (or `COLUMNS`).
    """
    table = Table()
    for column in columns:
        table.add_column(Text(column), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console(markup=False, highlight=False)
    whole = console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(whole, 1)
    typer.echo(title)
    if whole <= console.width:
        console.print(table)
        return
    for row in rows:
        head, *others = (str(cell) for cell in row)
        if not columns[0] and len(others) == 1:  # names and values
            typer.echo(f"  {head}: {others[0]}")
            continue
        typer.echo(head)
        for name, cell in zip(columns[1:], others, strict=True):
            typer.echo(f"  {name}: {cell}" if name else f"  {cell}")


def megabytes(count: float) -> str:
    """Format bytes as MB (10**6), or as kB below one MB."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


@contextmanager
def progress(quiet: bool = False) -> Iterator[Any]:
    """Show progress on standard error if it is a terminal; yields f(what, done, total)."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
        transient=True,
    )
    tasks: dict[str, TaskID] = {}

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            # Work done earlier must not count towards the rate.
            tasks[what] = bar.add_task(what, total=total, completed=done)
        bar.update(tasks[what], completed=done, total=total)

    with bar:
        yield advance
