"""Resumable export of an image, rendered block by block by one or several processes."""

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from multiprocessing import connection
from pathlib import Path
from typing import Any

from zoomldm.errors import TargetError
from zoomldm.writers.image import Block, Image, Source, part_pixels
from zoomldm.writers.journal import Journal
from zoomldm.writers.writer import Writer

Opener = Callable[[], AbstractContextManager[Source]]
Progress = Callable[[int, int], None]
RUNS = 4  # runs of blocks per process: more balance better, fewer render less of borders twice
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
POLL = 0.5  # seconds between two readings of the journal


@contextmanager
def export(
    target: Path,
    image: Image,
    writer: Writer,
    opener: Opener,
    options: dict[str, Any],
    *,
    workers: int = 1,
    weigh: Callable[[Block], int] = lambda block: block.tiles,
    progress: Progress | None = None,
) -> Iterator[Journal]:
    """Render all blocks of an image that are not done yet; yield the journal with their notes.

    The caller then has the writer assemble the output. If that succeeds, the folder beside the
    output is removed; otherwise the same call resumes where this one ended.

    Args:
        target: the output.
        image: its levels.
        writer: the writer of the format.
        opener: opens the source of pixels; with several workers it is sent to each of them.
        options: everything that the pixels depend on, plain JSON values.
        workers: processes that render; with 1, this process renders.
        weigh: cost of rendering a block, in the unit of progress.
        progress: called with the amount done and the total.

    Raises:
        TargetError: no space left, or an unfinished export with other options.
    """
    wanted = {**options, "levels": [asdict(level) for level in image.levels], **writer.settings()}
    journal = Journal.begin(target, wanted)
    try:
        writer.begin(journal.folder, image)
        weights = [weigh(image.block(index)) for index in range(image.block_count)]
        todo = [index for index in range(len(weights)) if index not in journal.notes]
        report = _Report(weights, journal, progress)
        report()
        if todo and workers > 1:
            _draw_in_processes(image, writer, opener, journal, todo, weights, workers, report)
        elif todo:
            with opener() as source:
                for index in todo:
                    draw_block(image, writer, source, journal, index)
                    report()
        journal.poll()
        yield journal
    except OSError as error:
        if error.errno in FULL:
            raise TargetError(
                f"{target}: can't be written ({error.strerror}); free some space and run the same "
                f"command again: it goes on from {journal.folder.name}"
            ) from error
        raise
    journal.close()


def draw_block(image: Image, writer: Writer, source: Source, journal: Journal, index: int) -> None:
    """Render one block, store it and note it as done."""
    block = image.block(index)
    writer.put(
        journal.folder, image, block, [part_pixels(source, image, part) for part in block.parts]
    )
    journal.note(index, source.notes(block))


class _Report:
    def __init__(self, weights: list[int], journal: Journal, progress: Progress | None) -> None:
        self.weights, self.journal, self.progress = weights, journal, progress

    def __call__(self) -> None:
        if self.progress:
            done = sum(self.weights[index] for index in self.journal.poll())
            self.progress(done, sum(self.weights))


def runs_of(todo: list[int], weights: list[int], count: int) -> list[list[int]]:
    """Blocks in order, split into at most `count` runs of about equal weight."""
    total, runs, filled = sum(weights[index] for index in todo), [[]], 0
    for index in todo:
        if runs[-1] and filled >= total * len(runs) / count:
            runs.append([])
        runs[-1].append(index)
        filled += weights[index]
    return runs


def _draw_in_processes(
    image: Image,
    writer: Writer,
    opener: Opener,
    journal: Journal,
    todo: list[int],
    weights: list[int],
    workers: int,
    report: Callable[[], None],
) -> None:
    # Heavy runs first: a light one at the end does not keep the processes waiting for long.
    runs = sorted(
        runs_of(todo, weights, RUNS * workers), key=lambda run: -sum(weights[i] for i in run)
    )
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(workers, len(runs)),
        mp_context=context,
        initializer=_start,
        initargs=(image, writer, opener, journal.folder, stop),
    )
    try:
        pending: set[Future[None]] = {pool.submit(_draw_run, run) for run in runs}
        while pending:
            done, pending = wait(pending, POLL, FIRST_EXCEPTION)
            for future in done:
                future.result()
            report()
    except BrokenProcessPool as error:
        raise TargetError(
            f"{journal.folder}: a process that drew was ended from outside (memory full?); run "
            "the same command again with fewer --workers: it goes on from there"
        ) from error
    finally:
        stop.set()  # takes effect after the current block
        pool.shutdown(cancel_futures=True)


_state: dict[str, Any] = {}


def _start(image: Image, writer: Writer, opener: Opener, folder: Path, stop: Any) -> None:
    """In a new process: open the source, and exit with the parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    opened = opener()
    _state["arguments"] = image, writer, opened.__enter__(), Journal(folder)
    _state.update(opened=opened, stop=stop)


def _follow(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _draw_run(run: list[int]) -> None:
    for index in run:
        if _state["stop"].is_set():
            return
        image, writer, source, journal = _state["arguments"]
        draw_block(image, writer, source, journal, index)
