"""Where slides are processed: in this process, or in several processes of this machine."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, Self

from zoomldm.cohort.work import Job, Outcome, Ticket, work
from zoomldm.cores import cores
from zoomldm.verbs import Progress, silent


@dataclass(frozen=True)
class Ended:
    """A ticket that came back.

    Attributes:
        ticket: the ticket.
        outcome: the result; None if its process died.
        death: how its process died, in a few words.
    """

    ticket: Ticket
    outcome: Outcome | None = None
    death: str = ""


class Pool(Protocol):
    """Where tickets are processed; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: Any) -> None: ...

    def capacity(self) -> int:
        """Number of tickets that may be under way at once; more would only wait."""
        ...

    def submit(self, ticket: Ticket) -> None:
        """Take a ticket."""
        ...

    def wait(self, seconds: float) -> list[Ended]:
        """Tickets that came back within this many seconds."""
        ...


class InlinePool:
    """This process, one slide after another.

    Args:
        job: what to do to each slide.
        progress: called with the progress within a slide.
        raising: raise a slide's error instead of recording it; for a single slide.
    """

    def __init__(self, job: Job, progress: Progress = silent, raising: bool = False) -> None:
        self._job, self._progress, self._raising = job, progress, raising
        self._waiting: deque[Ticket] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._waiting.clear()

    def capacity(self) -> int:
        """One."""
        return 1

    def submit(self, ticket: Ticket) -> None:
        """Take a ticket; `wait` processes it."""
        self._waiting.append(ticket)

    def wait(self, seconds: float) -> list[Ended]:
        """Process the next ticket."""
        if not self._waiting:
            return []
        ticket = self._waiting.popleft()
        return [Ended(ticket, work(self._job, ticket, self._progress, self._raising))]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    ticket: Ticket | None = None


class ProcessPool:
    """Processes of this machine. One that dies costs its slide an attempt and is replaced.

    Args:
        job: what to do to each slide.
        workers: number of processes, 1 or more.
        notify: called with the pid of each process that is started.
    """

    def __init__(
        self, job: Job, workers: int, notify: Callable[[int], None] = lambda pid: None
    ) -> None:
        self._job, self._count, self._notify = job, workers, notify
        # Networks and CUDA don't survive a fork.
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self._workers:
            worker.process.kill() if worker.ticket else worker.pipe.close()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def capacity(self) -> int:
        """The number of processes."""
        return self._count

    def submit(self, ticket: Ticket) -> None:
        """Give a ticket to an idle process, starting one if necessary."""
        idle = next((w for w in self._workers if w.ticket is None), None)
        if idle is None:
            idle = self._start(len(self._workers))
            self._workers.append(idle)
        idle.ticket = ticket
        with suppress(BrokenPipeError, ConnectionError):  # died while idle: `wait` finds out
            idle.pipe.send(ticket)

    def _start(self, index: int) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._job), daemon=True)
        held = _environment(index, self._count)
        try:
            process.start()
        finally:
            for name, value in held.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        there.close()
        self._notify(process.pid or 0)
        return _Worker(process, here)

    def wait(self, seconds: float) -> list[Ended]:
        """Outcomes and deaths, as they come."""
        busy = [w for w in self._workers if w.ticket is not None]
        if not busy:
            return []
        ready = set(wait([w.pipe for w in busy], seconds))
        ended = []
        for worker in busy:
            if worker.pipe not in ready or worker.ticket is None:
                continue
            ticket = worker.ticket
            try:
                ended.append(Ended(ticket, worker.pipe.recv()))
                worker.ticket = None
            except (EOFError, ConnectionError, OSError):
                worker.process.join(5)
                ended.append(Ended(ticket, death=_death(worker.process.exitcode)))
                worker.pipe.close()
                self._workers.remove(worker)
        return ended


def _environment(index: int, workers: int) -> dict[str, str | None]:
    """Set the next process's part of cores and GPUs in the environment; return the old values."""
    given = {"OMP_NUM_THREADS": str(max(1, cores() // workers))}
    cards = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if cards > 1:
        given["CUDA_VISIBLE_DEVICES"] = str(index % cards)
    before = {name: os.environ.get(name) for name in given}
    for name, value in given.items():
        os.environ.setdefault(name, value)
    return before


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; too little memory?" if name == "SIGKILL" else ""
    return f"its process was killed ({name}{hint})"


def _serve(pipe: Connection, job: Job) -> None:
    """Main loop of a pool process, until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    os.environ.setdefault("TQDM_DISABLE", "1")
    while True:
        try:
            ticket = pipe.recv()
        except (EOFError, ConnectionError, OSError):
            return
        outcome = work(job, ticket)
        try:
            pipe.send(outcome)
        except (BrokenPipeError, ConnectionError):
            return
