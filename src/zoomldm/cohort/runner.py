"""A verb over a cohort: each slide is done once, whatever dies on the way."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from zoomldm.cohort.claims import STALE, Watch, standing, take
from zoomldm.cohort.items import Item
from zoomldm.cohort.pools import Ended, Pool
from zoomldm.cohort.state import Record, States, digest_of, file_name, is_done, now, versions
from zoomldm.cohort.work import Job, Outcome, Ticket
from zoomldm.errors import ConfigError, TargetError, ZoomLDMError

_log = logging.getLogger(__name__)

RETRIES = 2
_POLL = 0.5  # seconds between two checks of what other processes hold


@dataclass(frozen=True)
class Event:
    """Something that happened to a slide.

    Attributes:
        kind: `earlier` (done by an earlier run), `begun`, `done`, `failed`, `again` (begun anew
            after `error`), `held` (by another process).
        item: the slide.
        record: the slide's record, for `earlier`, `done` and `failed`.
        error: in one line, for `failed` and `again`.
    """

    kind: Literal["earlier", "begun", "done", "failed", "again", "held"]
    item: Item
    record: Record | None = None
    error: str | None = None


@dataclass
class Result:
    """The result of a run.

    Attributes:
        items: all slides, in order.
        records: records of the slides that are done or failed, by key.
        earlier: keys of slides that an earlier run or another process had done.
        refused: problem of each slide that wasn't processed, by source.
        attempts: attempts begun in this run.
        seconds: duration of this run.
    """

    items: list[Item]
    records: dict[str, Record] = field(default_factory=dict)
    earlier: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    seconds: float = 0.0

    @property
    def done(self) -> list[tuple[Item, Record]]:
        """Slides that are done, in order."""
        return [(item, r) for item, r in self._known() if r.status == "done"]

    @property
    def failed(self) -> list[tuple[Item, str]]:
        """Slides that failed or were refused, each with its reason, in order."""
        found = {id(i): r.error or "failed" for i, r in self._known() if r.status == "failed"}
        found |= {id(i): str(i.problem) for i in self.items if i.problem}
        return [(item, found[id(item)]) for item in self.items if id(item) in found]

    def _known(self) -> list[tuple[Item, Record]]:
        return [
            (item, self.records[item.key])
            for item in self.items
            if item.problem is None and item.key in self.records
        ]


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        todo: slides to process.
        done: slides that are already done.
        refused: slides with a problem.
    """

    todo: list[Item]
    done: list[Item]
    refused: list[Item]


def plan(job: Job, items: Sequence[Item], folder: Path | None) -> Plan:
    """Find which slides a run would process. Nothing is written.

    Args:
        job: what to do to each slide.
        items: the slides.
        folder: folder of the state, None if no state is stored.
    """
    settings, todo, done = digest_of(job.settings), [], []
    states = States(folder) if folder is not None and folder.is_dir() else None
    for item in items:
        if item.problem is None:
            record = states.read(item.key) if states else None
            (done if is_done(record, item, settings) else todo).append(item)
    return Plan(todo, done, [item for item in items if item.problem])


def run_cohort(
    job: Job,
    items: Sequence[Item],
    pool: Pool,
    folder: Path | None = None,
    *,
    retries: int = RETRIES,
    stale: float = STALE,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Result:
    """Do a job to every slide of a cohort that isn't done yet.

    Several of these may run on one `folder`, on any machines that see it: each slide is done by
    one of them, and a slide left by a dead process is taken over.

    Args:
        job: what to do to each slide.
        items: the slides (`find_items`).
        pool: where they are processed.
        folder: folder of the state; None stores none, so that no slide counts as done.
        retries: attempts after the first if a process died or the machine failed.
        stale: seconds without a heartbeat after which a claim of another machine counts as dead.
        on_event: called with each event.

    Raises:
        ConfigError: no worker can do any slide (a library is missing, or the version differs).
        TargetError: the state can't be written.
    """
    return _Run(job, items, pool, folder, retries, stale, on_event).run()


class _Run:
    def __init__(
        self,
        job: Job,
        items: Sequence[Item],
        pool: Pool,
        folder: Path | None,
        retries: int,
        stale: float,
        on_event: Callable[[Event], None],
    ) -> None:
        self.job, self.pool, self.retries, self.tell = job, pool, retries, on_event
        self.result = Result(list(items))
        self.settings = digest_of(job.settings)
        self.watch = Watch(stale)
        self.tries: dict[str, int] = {}  # in this run
        self.before: dict[str, int] = {}  # in earlier runs
        self.queue: deque[Item] = deque()
        self.held: dict[str, Item] = {}
        self.running: dict[str, Ticket] = {}
        self.looked = 0.0
        try:
            self.states = States(folder) if folder is not None else None
        except OSError as error:
            raise TargetError(f"{folder}: can't be made ({error.strerror})") from error

    def run(self) -> Result:
        start = time.monotonic()
        for item in self.result.items:
            self._sort(item)
        with self.pool:
            while self.queue or self.running or self.held:
                self._look()
                while self.queue and len(self.running) < self.pool.capacity():
                    self._begin(self.queue.popleft())
                if self.running:
                    for ended in self.pool.wait(_POLL):
                        self._end(ended)
                elif self.held:
                    time.sleep(_POLL)
        self.result.seconds = time.monotonic() - start
        return self.result

    def _sort(self, item: Item) -> None:
        """Classify a slide at the start: refused, done, or to do."""
        if item.problem is not None:
            self.result.refused[item.source] = item.problem
            self.tell(Event("failed", item, error=item.problem))
            return
        record = self.states.read(item.key) if self.states else None
        if is_done(record, item, self.settings):
            self._finish(item, record, earlier=True)
            return
        self.before[item.key] = record.attempts if record else 0
        self.queue.append(item)

    def _begin(self, item: Item) -> None:
        number = 0
        if self.states is not None:
            found = standing(self.states.claims, file_name(item.key))
            if found.number >= 0:
                if not self.watch.dead(item.key, found):
                    if item.key not in self.held:
                        self.tell(Event("held", item, error=f"{found.holder} works on it"))
                    self.held[item.key] = item
                    return
                number = found.number + 1
        self.tries[item.key] = self.tries.get(item.key, 0) + 1
        ticket = Ticket(
            item,
            self.states.folder if self.states else None,
            number,
            self.before[item.key] + self.tries[item.key] - 1,
            versions()["zoomldm"],
        )
        self.running[item.key] = ticket
        self.result.attempts += 1
        self.tell(Event("begun", item))
        self.pool.submit(ticket)

    def _look(self) -> None:
        """Check the slides that other processes hold again."""
        if not self.held or self.states is None or time.monotonic() - self.looked < _POLL:
            return
        self.looked = time.monotonic()
        for key, item in list(self.held.items()):
            record = self.states.read(key)
            found = standing(self.states.claims, file_name(key))
            if is_done(record, item, self.settings):
                del self.held[key]
                self._finish(item, record, earlier=True)
            elif found.number < 0 or self.watch.dead(key, found):
                del self.held[key]
                self.queue.append(item)

    def _end(self, ended: Ended) -> None:
        ticket, outcome = ended.ticket, ended.outcome
        item = ticket.item
        self.running.pop(item.key, None)
        if outcome is None:
            self._died(ticket, ended.death)
        elif outcome.kind == "refused":
            raise ConfigError(str(outcome.error))
        elif outcome.kind == "held":
            self.tries[item.key] -= 1
            self.result.attempts -= 1
            self.held[item.key] = item
        elif outcome.kind == "failed" and outcome.again and self._may_again(item):
            self._again(item, str(outcome.record.error if outcome.record else outcome.error))
        else:
            self._finish(item, outcome.record, earlier=outcome.kind == "earlier", outcome=outcome)

    def _may_again(self, item: Item) -> bool:
        return self.tries[item.key] <= self.retries

    def _again(self, item: Item, error: str) -> None:
        self.tell(Event("again", item, error=error))
        self.queue.append(item)

    def _died(self, ticket: Ticket, death: str) -> None:
        """Handle a dead process: its claim is free, whatever its heartbeat suggests."""
        item = ticket.item
        if self.states is not None:
            # The claim is this run's own: no need to wait until it is stale.
            self.watch.bury(item.key, standing(self.states.claims, file_name(item.key)))
        if self._may_again(item):
            self._again(item, death)
            return
        record = Record(
            slide=item.source,
            key=item.key,
            status="failed",
            attempts=ticket.attempts + 1,
            error=f"{item.source}: {death}, {self.tries[item.key]} times",
            settings=self.settings,
            versions=versions(),
            finished=now(),
        )
        self._put_down(item, record)
        self._finish(item, record)

    def _put_down(self, item: Item, record: Record) -> None:
        """Write a state that no worker could write."""
        if self.states is None:
            return
        name = file_name(item.key)
        try:
            claim = take(self.states.claims, name, standing(self.states.claims, name).number + 1)
            if claim is None:
                return
            try:
                self.states.write(record)
            finally:
                claim.release()
        except (OSError, ZoomLDMError) as error:
            _log.warning("%s: its state can't be written (%s)", item.source, error)

    def _finish(
        self,
        item: Item,
        record: Record | None,
        earlier: bool = False,
        outcome: Outcome | None = None,
    ) -> None:
        if record is None:  # never from a worker; a state that vanished counts as none
            return
        if outcome is not None and outcome.error:
            _log.warning("%s: its state can't be written (%s)", item.source, outcome.error)
        if earlier:
            self.result.earlier.add(item.key)
            record = replace(record, report={**record.report, "done_before": True})
        self.result.records[item.key] = record
        kind = "earlier" if earlier else record.status
        self.tell(Event(kind, item, record, record.error))
