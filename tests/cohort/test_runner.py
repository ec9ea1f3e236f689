"""A verb over a cohort: each slide done once, whatever fails or dies."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from cohort_jobs import Copy, NoLibrary

from zoomldm.cohort.claims import take
from zoomldm.cohort.items import Item
from zoomldm.cohort.pools import InlinePool, ProcessPool
from zoomldm.cohort.runner import plan, run_cohort
from zoomldm.cohort.state import States
from zoomldm.cohort.summary import summarize, write_summary
from zoomldm.cohort.work import Ticket, work
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.remote import UnreachableError


class Folder:
    """Sources, outputs and state of a cohort in a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.state = root, root / "state"
        for name in ("in", "out"):
            (root / name).mkdir()

    def items(self, *texts: str) -> list[Item]:
        items = []
        for number, text in enumerate(texts):
            path = self.root / "in" / f"s{number}.txt"
            if not path.exists():
                path.write_text(text)
            items.append(Item(str(path), f"s{number}"))
        return items

    def job(self, **options) -> Copy:
        return Copy(self.root / "out", self.root / "log", **options)

    def copies(self) -> list[str]:
        return sorted(p.name for p in (self.root / "out").iterdir())

    def leftovers(self) -> list[Path]:
        """Claims and parts that should be gone."""
        parts = list(self.root.rglob("*.part"))
        return parts + list((self.state / "claims").iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_fails_one_line_each_and_goes_on(folder):
    items = folder.items("good", "bad", "crash", "good")
    events = []
    result = run_cohort(
        folder.job(), items, InlinePool(folder.job()), folder.state, on_event=events.append
    )
    assert [item.key for item, _ in result.done] == ["s0", "s3"]
    assert {i.key: e for i, e in result.failed} == {
        "s1": f"{items[1].source}: is bad; expected a good one",
        "s2": f"{items[2].source}: ValueError: a fault of ours",
    }
    assert folder.copies() == ["s0.copy", "s3.copy"] and folder.leftovers() == []
    kinds = [(e.kind, e.item.key) for e in events if e.kind != "begun"]
    assert kinds == [("done", "s0"), ("failed", "s1"), ("failed", "s2"), ("done", "s3")]
    record = States(folder.state).read("s1")
    assert record is not None and record.status == "failed" and record.attempts == 1
    assert set(record.versions) >= {"zoomldm", "python"} and record.host


def test_goes_on_with_what_is_missing_or_failed(folder):
    items = folder.items("good", "bad", "good")
    run_cohort(folder.job(), items, InlinePool(folder.job()), folder.state)
    Path(items[1].source).write_text("better")
    (folder.root / "out" / "s2.copy").unlink()
    assert [i.key for i in plan(folder.job(), items, folder.state).todo] == ["s1", "s2"]
    result = run_cohort(folder.job(), items, InlinePool(folder.job()), folder.state)
    assert result.earlier == {"s0"} and len(result.done) == 3
    assert [folder.job().attempts(i) for i in items] == [1, 2, 2]
    record = States(folder.state).read("s1")
    assert record is not None and record.attempts == 2
    assert result.records["s0"].report == {"letters": 4, "done_before": True}


def test_other_settings_and_changed_slides_are_done_anew(folder):
    items = folder.items("good")
    run_cohort(folder.job(), items, InlinePool(folder.job()), folder.state)
    other = folder.job(level=3)
    assert not run_cohort(other, items, InlinePool(other), folder.state).earlier
    assert run_cohort(other, items, InlinePool(other), folder.state).earlier
    Path(items[0].source).write_text("changed")
    assert not run_cohort(other, items, InlinePool(other), folder.state).earlier


def test_without_state_nothing_is_known_and_nothing_written(folder):
    items = folder.items("good")
    for _ in range(2):
        result = run_cohort(folder.job(), items, InlinePool(folder.job()))
        assert not result.earlier and len(result.done) == 1
    assert not folder.state.exists()


def test_killed_processes_cost_an_attempt(folder):
    """Twenty slides, one that kills its process once and one that always does."""
    texts = ["good"] * 18 + ["die once", "die"]
    items = folder.items(*texts)
    job = folder.job()
    pids = []
    result = run_cohort(job, items, ProcessPool(job, 2, pids.append), folder.state, retries=2)
    assert len(result.done) == 19 and len(pids) >= 2 + 2
    ((item, error),) = result.failed
    assert item.key == "s19" and "SIGKILL" in error and "3 times" in error
    assert [job.attempts(i) for i in items] == [1] * 18 + [2, 3]
    record = States(folder.state).read("s19")
    assert record is not None and record.status == "failed" and record.attempts == 3
    assert len(folder.copies()) == 19 and folder.leftovers() == []


def test_two_runs_of_one_folder_do_each_slide_once(folder):
    items = folder.items(*["good"] * 12)
    job = folder.job(seconds=0.05)
    context = multiprocessing.get_context("fork")

    def run():
        result = run_cohort(job, items, InlinePool(job), folder.state)
        os._exit(0 if len(result.done) == 12 else 1)

    others = [context.Process(target=run) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert [job.attempts(i) for i in items] == [1] * 12 and folder.leftovers() == []


def test_no_process_can_do_any(folder):
    job = NoLibrary(folder.root / "out", folder.root / "log")
    items = folder.items("good", "good")
    for pool in (InlinePool(job), ProcessPool(job, 2)):
        with pytest.raises(ConfigError, match="weights can't be had"):
            run_cohort(job, items, pool, folder.state)


def test_another_version_is_refused_before_work_begins(folder):
    (item,) = folder.items("good")
    outcome = work(folder.job(), Ticket(item, folder.state, version="0.0.1"))
    assert outcome.kind == "refused" and "run by 0.0.1" in str(outcome.error)
    assert not folder.state.exists() and folder.copies() == []


def test_a_state_that_cannot_be_written_fails_that_slide(folder, monkeypatch):
    items = folder.items("good", "good")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoomldm.cohort.work.take", full)
    result = run_cohort(folder.job(), items, InlinePool(folder.job()), folder.state)
    assert len(result.failed) == 2 and "No space left" in result.failed[0][1]
    assert folder.copies() == []


def test_a_disk_that_is_full_fails_what_has_no_room(folder):
    resource = pytest.importorskip("resource")
    items = folder.items("good", "x" * 200_000, "good")
    job = folder.job()

    def run():  # files of this process may have 100 kB: past that, writing fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        result = run_cohort(job, items, InlinePool(job), folder.state)
        ((item, error),) = result.failed
        reported = item.key == "s1" and "can't be written" in error and "free some space" in error
        os._exit(0 if reported and "\n" not in error else 1)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert folder.copies() == ["s0.copy", "s2.copy"] and folder.leftovers() == []
    again = run_cohort(job, items, InlinePool(job), folder.state)
    assert again.earlier == {"s0", "s2"} and len(again.done) == 3


def test_a_network_that_fails_is_tried_again(folder, monkeypatch):
    items, job = folder.items("good"), folder.job()
    run, failed = Copy.run, []

    def fails_once(self, loaded, item, progress):
        if not failed:
            failed.append(item)
            raise ArchiveError("a line") from UnreachableError("s3://b/a: can't be reached")
        return run(self, loaded, item, progress)

    monkeypatch.setattr(Copy, "run", fails_once)
    result = run_cohort(job, items, InlinePool(job), folder.state)
    assert len(result.done) == 1 and result.attempts == 2


def test_refused_slides_are_failures_and_the_others_are_done(folder):
    good, other = folder.items("good", "good")
    bad = Item(other.source, other.key, problem="s1: a case in two splits")
    result = run_cohort(folder.job(), [bad, good], InlinePool(folder.job()), folder.state)
    assert [e for _, e in result.failed] == ["s1: a case in two splits"]
    assert folder.copies() == ["s0.copy"]


def test_a_dead_claim_of_another_machine_is_taken_over(folder, monkeypatch):
    (item,) = folder.items("good")
    states = States(folder.state)
    monkeypatch.setattr("zoomldm.cohort.claims.host", lambda: "elsewhere")
    claim = take(states.claims, item.key)
    assert claim is not None
    claim._stop.set()  # its heart stands still
    monkeypatch.undo()
    started = time.monotonic()
    events = []
    result = run_cohort(
        *(folder.job(), [item], InlinePool(folder.job()), folder.state),
        stale=0.6,
        on_event=events.append,
    )
    assert len(result.done) == 1 and time.monotonic() - started > 0.6
    assert "held" in [e.kind for e in events]
    assert not claim.holds and folder.leftovers() == []


def test_summary_in_two_files(folder):
    items = folder.items("good", "bad")
    job = folder.job()
    result = run_cohort(job, items, InlinePool(job), folder.state)
    summary = summarize("copy", result, job.settings, "1 process")
    files = write_summary(folder.state, summary)
    assert [f.name for f in files] == ["summary.json", "summary.md"]
    read = json.loads(files[0].read_text())
    assert (read["slides"], read["done"], read["failed"]) == (2, 1, 1)
    assert read["failures"][0]["slide"] == items[1].source
    assert "is bad; expected a good one" in files[1].read_text()
