"""One slide of a cohort, processed by whichever process got it."""

import logging
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from zoomldm.cohort.claims import Claim, host, take
from zoomldm.cohort.items import Item
from zoomldm.cohort.state import (
    Record,
    States,
    bytes_of,
    digest_of,
    file_name,
    fingerprint,
    is_done,
    now,
    versions,
)
from zoomldm.errors import ZoomLDMError
from zoomldm.files import kept_apart
from zoomldm.remote import RemoteError, RemotePath, UnreachableError
from zoomldm.verbs import Progress, silent

_log = logging.getLogger(__name__)


class Job(Protocol):
    """What a verb does to each slide; sent to other processes, so it holds only plain values."""

    @property
    def verb(self) -> str:
        """Name of the verb."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything the outputs depend on except the slide, resolved."""
        ...

    def load(self) -> Any:
        """Load what is loaded once per process, such as networks.

        Raises:
            ZoomLDMError: it can't be loaded; no slide can be done.
        """
        ...

    def output(self, item: Item) -> Path | RemotePath | None:
        """The output it writes for a slide, None if it writes nothing."""
        ...

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Do the job to one slide; the report consists of plain values.

        Raises:
            ZoomLDMError: the slide can't be done.
        """
        ...


@dataclass(frozen=True)
class Ticket:
    """One attempt at one slide.

    Attributes:
        item: the slide.
        folder: folder of the state, None if no state is stored.
        number: number of the claim to make.
        attempts: number of attempts made before.
        version: version of zoomldm that sends the ticket.
    """

    item: Item
    folder: Path | None = None
    number: int = 0
    attempts: int = 0
    version: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of a ticket.

    Attributes:
        kind: `done`, `failed`; `earlier` if another process had already done it; `held` if
            another process is working on it; `refused` if no slide can be done here.
        record: the slide's record, for the first three.
        error: why it was refused, or what went wrong with the state.
        again: whether another attempt might succeed after this one failed.
    """

    kind: Literal["done", "failed", "earlier", "held", "refused"]
    record: Record | None = None
    error: str | None = None
    again: bool = False


_LOADED: dict[str, Any] = {}


def load_once(job: Job) -> Any:
    """Load what a job needs and cache it for the next slide; caches one job at a time.

    Raises:
        ZoomLDMError: it can't be loaded.
    """
    mark = digest_of({"verb": job.verb, "class": type(job).__qualname__, **job.settings})
    if mark not in _LOADED:
        _LOADED.clear()
        _LOADED[mark] = job.load()
    return _LOADED[mark]


def one_line(error: BaseException) -> str:
    """An error in one line, with its type unless it is a `ZoomLDMError`."""
    text = " ".join(str(error).split())
    if isinstance(error, ZoomLDMError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def work(job: Job, ticket: Ticket, progress: Progress = silent, raising: bool = False) -> Outcome:
    """Claim a slide, do the job and write its record.

    A failing slide is returned as an outcome, so that the others go on; with `raising` it raises.
    """
    found = versions()["zoomldm"]
    if ticket.version and ticket.version != found:
        return Outcome(
            "refused",
            error=f"{host().split(' ')[0]} has zoomldm {found}, and the cohort is run by "
            f"{ticket.version}; install the same version there",
        )
    try:
        loaded = load_once(job)
    except Exception as error:  # no slide can be done without it
        if raising:
            raise
        _log.debug("%s", traceback.format_exc())
        return Outcome("refused", error=one_line(error))
    if ticket.folder is None:
        return _attempt(job, loaded, ticket, progress, raising)
    try:
        states = States(ticket.folder)
        claim = take(states.claims, file_name(ticket.item.key), ticket.number)
    except (OSError, ZoomLDMError) as error:
        return Outcome("failed", _record(job, ticket, error=f"its state: {one_line(error)}"))
    if claim is None:
        return Outcome("held")
    try:
        return _claimed(job, loaded, ticket, states, claim, progress, raising)
    finally:
        claim.release()


def _claimed(
    job: Job,
    loaded: Any,
    ticket: Ticket,
    states: States,
    claim: Claim,
    progress: Progress,
    raising: bool,
) -> Outcome:
    before = states.read(ticket.item.key)
    if before is not None and is_done(before, ticket.item, digest_of(job.settings)):
        return Outcome("earlier", before)
    with kept_apart():
        outcome = _attempt(job, loaded, ticket, progress, raising)
    if not claim.holds:  # taken over: the record of the new holder counts
        return Outcome("held")
    try:
        if outcome.record is not None:
            states.write(outcome.record)
    except ZoomLDMError as error:
        return Outcome(outcome.kind, outcome.record, error=one_line(error))
    return outcome


def _attempt(job: Job, loaded: Any, ticket: Ticket, progress: Progress, raising: bool) -> Outcome:
    start = time.monotonic()
    before = fingerprint(ticket.item)
    try:
        report = dict(job.run(loaded, ticket.item, progress))
    except ZoomLDMError as error:
        if raising:
            raise
        _log.debug("%s", traceback.format_exc())
        found = getattr(error, "report", None)  # what was found before it failed
        record = _record(job, ticket, start, before, one_line(error), found)
        return Outcome("failed", record, again=_may_pass(error))
    except Exception as error:  # a bug or a fault of the machine: the other slides go on
        if raising:
            raise
        _log.debug("%s", traceback.format_exc())
        again = isinstance(error, OSError | MemoryError | RuntimeError)
        record = _record(job, ticket, start, before, f"{ticket.item.source}: {one_line(error)}")
        return Outcome("failed", record, again=again)
    return Outcome("done", _record(job, ticket, start, before, report=report))


def _may_pass(error: BaseException | None) -> bool:
    """Whether another attempt might succeed: a network failure is the machine's fault."""
    while error is not None:
        if isinstance(error, UnreachableError):
            return True
        error = error.__cause__
    return False


def _record(
    job: Job,
    ticket: Ticket,
    start: float | None = None,
    source: list[int] | None = None,
    error: str | None = None,
    report: dict[str, Any] | None = None,
) -> Record:
    output = job.output(ticket.item)
    size = None
    if error is None and output is not None:
        with suppress(RemoteError):
            size = bytes_of(output)
    return Record(
        slide=ticket.item.source,
        key=ticket.item.key,
        status="failed" if error is not None else "done",
        attempts=ticket.attempts + 1,
        seconds=round(time.monotonic() - start, 3) if start is not None else 0.0,
        error=error,
        report=report or {},
        settings=digest_of(job.settings),
        source=source,
        output=None if output is None else str(output),
        output_bytes=size,
        host=host().split(" ")[0],
        versions=versions(),
        finished=now(),
    )
