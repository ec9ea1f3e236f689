"""Options of verbs that take several slides, and their progress display."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from zoomldm.cohort.items import Cohort
    from zoomldm.cohort.pools import Pool
    from zoomldm.cohort.runner import Event, Result
    from zoomldm.cohort.work import Job
    from zoomldm.verbs import Progress

_PANEL = "Several slides"

Workers = Annotated[
    int,
    typer.Option(min=1, help="Processes on this machine, one slide each.", rich_help_panel=_PANEL),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="auto|HOST:PORT",
        help="Run on this Ray cluster instead; auto: the one this machine belongs to.",
        rich_help_panel=_PANEL,
    ),
]
Cpus = Annotated[
    float,
    typer.Option(
        "--cpus-per-slide", min=0, help="CPUs for each slide, with --ray.", rich_help_panel=_PANEL
    ),
]
Gpus = Annotated[
    float,
    typer.Option(
        "--gpus-per-slide", min=0, help="GPUs for each slide, with --ray.", rich_help_panel=_PANEL
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        help="Retries for a slide whose process died or whose machine failed.",
        rich_help_panel=_PANEL,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Take only the table's rows of this split.", rich_help_panel=_PANEL
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where progress is recorded; in the output folder if not given.",
        rich_help_panel=_PANEL,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show what would be done, with all settings; do nothing.",
                 rich_help_panel=_PANEL),
]  # fmt: skip


@dataclass(frozen=True)
class Running:
    """How a verb runs over its slides; see the options above."""

    workers: int = 1
    ray: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 2
    state: Path | None = None
    dry_run: bool = False

    @property
    def where(self) -> str:
        """Where it runs, in a few words."""
        if self.ray is not None:
            return f"on the Ray cluster {self.ray}"
        return f"{self.workers} process{'es' if self.workers > 1 else ''}"


def state_folder(running: Running, cohort: "Cohort", out: Path | None, verb: str) -> Path | None:
    """Return the state folder: the named one, or one among a cohort's outputs; else None.

    Slides named one by one and processed here need none: their outputs show what was done.
    """
    if running.state is not None:
        return running.state
    plain = cohort.named and running.workers == 1 and running.ray is None
    if plain or out is None or not out.is_dir():
        return None
    return out / f"cohort-{verb}"


def run_slides(
    job: "Job",
    cohort: "Cohort",
    running: Running,
    *,
    out: Path | None,
    what: str,
    json: bool,
    raising: bool = True,
) -> "Result":
    """Run a verb over its slides and show progress.

    Args:
        job: the verb's job.
        cohort: the slides.
        running: how to run.
        out: the output; if it is a folder, state is stored in it.
        what: word for the inputs, `slides` or `archives`.
        json: print nothing but errors.
        raising: if a single slide is named, raise its error.

    Raises:
        typer.Exit: after a dry run.
        ZoomLDMError: an error that affects all slides, or that of the only slide.
    """
    from zoomldm.cohort.items import refuse_all
    from zoomldm.cohort.runner import run_cohort
    from zoomldm.cohort.summary import summarize, write_summary

    folder = state_folder(running, cohort, out, job.verb)
    if running.dry_run:
        _show_plan(job, cohort, folder, running, what, json)
        raise typer.Exit
    refuse_all(cohort)
    with Board(job.verb, len(cohort.items), quiet=json) as board:
        alone = raising and cohort.named and len(cohort.items) == 1
        pool = _pool(job, cohort, running, board.advance, alone)
        result = run_cohort(
            job, cohort.items, pool, folder, retries=running.retries, on_event=board.note
        )
    if folder is not None:
        summary = summarize(job.verb, result, job.settings, running.where)
        files = write_summary(folder, summary)
        if not json:
            typer.echo(f"summary: {files[1]}", err=True)
    return result


def named_files(
    arguments: Sequence[str], endings: frozenset[str], what: str, split: str | None = None
) -> list[Path]:
    """List the files that folders, globs and tables name, for verbs that take all at once.

    Raises:
        ConfigError: nothing found, a URL, or a file with a problem (`find_items`).
    """
    from zoomldm.cohort.items import find_items
    from zoomldm.errors import ConfigError
    from zoomldm.remote import is_url

    items = find_items(arguments, endings, what, split=split).items
    for item in items:
        if item.problem:
            raise ConfigError(item.problem)
        if is_url(item.source):
            raise ConfigError(f"{item.source}: is not on this machine; download it first")
    return [Path(item.source) for item in items]


def _pool(
    job: "Job", cohort: "Cohort", running: Running, progress: "Progress", raising: bool
) -> "Pool":
    from zoomldm.cohort.pools import InlinePool, ProcessPool

    if running.ray is not None:
        from zoomldm.cohort.ray_pool import RayPool

        return RayPool(job, running.ray, running.cpus, running.gpus)
    if running.workers > 1:
        return ProcessPool(job, min(running.workers, len(cohort.items)))
    return InlinePool(job, progress, raising)


def reports_of(result: "Result") -> list[dict[str, Any]]:
    """Return the verb's report for each finished slide."""
    return [record.report for _, record in result.done]


def failures_of(result: "Result", name: str) -> list[dict[str, str]]:
    """List failed slides and their errors, for JSON."""
    return [{name: item.source, "error": error} for item, error in result.failed]


def end(result: "Result", what: str, done: str) -> None:
    """Raise an error if slides failed.

    Args:
        result: the run's result.
        what: word for the inputs, such as `slides`.
        done: participle of what the verb does, such as `compressed`.

    Raises:
        SomeFailedError: some failed.
        ZoomLDMError: all failed.
    """
    from zoomldm.errors import SomeFailedError, ZoomLDMError

    failed, count = result.failed, len(result.items)
    if not failed:
        return
    if not result.done:
        raise ZoomLDMError(f"none of the {count} {what} could be {done}")
    shown = ", ".join(item.source for item, _ in failed[:20])
    more = f" and {len(failed) - 20} more" if len(failed) > 20 else ""
    raise SomeFailedError(f"{len(failed)} of {count} {what} failed: {shown}{more}")


def _show_plan(
    job: "Job", cohort: "Cohort", folder: Path | None, running: Running, what: str, json: bool
) -> None:
    from zoomldm.cli.output import print_json, print_table
    from zoomldm.cohort.runner import plan

    found = plan(job, cohort.items, folder)
    settings = {
        **job.settings,
        "runs": running.where,
        "retries": running.retries,
        "state": str(folder) if folder else "not recorded",
    }
    if running.ray is not None:
        settings |= {"cpus per slide": running.cpus, "gpus per slide": running.gpus}
    if json:
        print_json(
            {
                "verb": job.verb,
                "settings": settings,
                "todo": [i.source for i in found.todo],
                "done": [i.source for i in found.done],
                "refused": [{"slide": i.source, "error": i.problem} for i in found.refused],
            }
        )
        return
    _print_settings(settings)
    rows = [[i.source, "would be done", str(job.output(i) or "")] for i in found.todo]
    rows += [[i.source, "already done", str(job.output(i) or "")] for i in found.done]
    rows += [[i.source, "refused", i.problem] for i in found.refused]
    shown = rows[:50]
    print_table(
        f"{job.verb}: {len(found.todo)} of {len(cohort.items)} {what} would be done, "
        f"{len(found.done)} already done, {len(found.refused)} refused",
        [what.removesuffix("s"), "", "output"],
        shown,
    )
    if len(rows) > len(shown):
        typer.echo(f"and {len(rows) - len(shown)} more; --json lists all")


def _print_settings(settings: Mapping[str, Any]) -> None:
    from zoomldm.cli.output import print_table

    print_table("settings", ["", ""], [[k, str(v)] for k, v in settings.items()])


class Board:
    """Progress of a run: a live table on a terminal, elsewhere one line per failure.

    Args:
        verb: name of the verb.
        total: number of slides.
        quiet: show no table.
    """

    def __init__(self, verb: str, total: int, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live

        self._verb, self._total = verb, total
        self._counts = dict.fromkeys(("earlier", "done", "failed", "held"), 0)
        self._running: dict[str, float] = {}
        self._stages: tuple[str, ...] = ()
        self._stage_of, self._stage_from = "", (0.0, 0)
        self._start = time.monotonic()
        self._console = Console(stderr=True, highlight=False)
        self._live = (
            Live(get_renderable=self._table, console=self._console, transient=True)
            if self._console.is_terminal and not quiet
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def advance(self, what: str, done: int, total: int, /) -> None:
        """Record the progress of the slide in this process."""
        now = time.monotonic()
        if self._stage_of != what:  # the rate counts from here
            self._stage_of, self._stage_from = what, (now, done)
        since, first = self._stage_from
        text, took = f"{what} {done:,} of {total:,}", now - since
        if done > first and took > 0:
            left = _clock((total - done) * took / (done - first))
            text += f", {_rate((done - first) / took)}, {left} left"
        self._stages = (text,)

    def note(self, event: "Event") -> None:
        """Record an event of a slide."""
        key = event.item.key
        if event.kind == "begun":
            self._running[key] = time.monotonic()
            self._stages, self._stage_of = (), ""
            return
        if event.kind in self._counts:
            self._counts[event.kind] += 1
        self._running.pop(key, None)
        if event.kind == "failed":
            self._say(f"zoomldm: {event.error}")
        elif event.kind == "again":
            self._say(f"zoomldm: {event.item.source}: {event.error}; trying again")
        elif event.kind == "held":
            self._say(f"zoomldm: {event.item.source}: {event.error}")

    def _say(self, text: str) -> None:
        if self._live:
            self._console.print(text, markup=False, soft_wrap=True)
        else:
            typer.echo(text, err=True)

    def _table(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        counts, took = self._counts, time.monotonic() - self._start
        worked = counts["done"] + counts["failed"]
        left = self._total - worked - counts["earlier"]
        done = f"{counts['done'] + counts['earlier']:,} of {self._total:,} done"
        if counts["earlier"]:
            done += f" ({counts['earlier']:,} before)"
        cells = [
            self._verb,
            done,
            f"{counts['failed']:,} failed",
            f"{len(self._running)} under way",
        ]
        if worked:
            cells += [_rate(worked / took), f"{_clock(left * took / worked)} left"]
        table = Table.grid(padding=(0, 2))
        table.add_row(*(Text(c) for c in cells))
        now = time.monotonic()
        for key, since in list(self._running.items())[:12]:
            table.add_row(Text(""), Text(key), *(Text(c) for c in self._stage(now - since)))
        return table

    def _stage(self, seconds: float) -> Iterable[str]:
        return (_clock(seconds), *self._stages)


def _rate(a_second: float) -> str:
    for name, factor in (("s", 1), ("min", 60), ("h", 3600)):
        if a_second * factor >= 1:
            return f"{a_second * factor:.1f}/{name}"
    return f"{a_second * 86400:.1f}/day"


def _clock(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
