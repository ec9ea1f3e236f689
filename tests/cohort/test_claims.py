"""Claims: one process a slide, and dead ones outbid."""

import multiprocessing
import os
from pathlib import Path

from zoomldm.cohort import claims
from zoomldm.cohort.claims import Watch, standing, take


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    claim = take(tmp_path, "a")
    assert claim is not None and claim.holds
    assert take(tmp_path, "a") is None
    found = standing(tmp_path, "a")
    assert found.number == 0 and not found.dead and str(os.getpid()) in found.holder
    claim.release()
    assert standing(tmp_path, "a").number == -1 and list(tmp_path.iterdir()) == []


def test_a_dead_process_of_this_machine_is_known_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: take(tmp_path, "a") and os._exit(0))
    process.start()
    process.join()
    found = standing(tmp_path, "a")
    assert found.number == 0 and found.dead and Watch().dead("a", found)
    first, second = take(tmp_path, "a", 1), take(tmp_path, "a", 1)
    assert first is not None and second is None
    first.release()
    assert list(tmp_path.iterdir()) == []


def test_a_number_used_again_is_another_process(tmp_path: Path, monkeypatch) -> None:
    take(tmp_path, "a")
    assert not standing(tmp_path, "a").dead
    monkeypatch.setattr(claims, "started", lambda pid: "later")
    assert standing(tmp_path, "a").dead


def test_other_machines_are_dead_when_their_heart_stands_still(tmp_path, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(claims, "host", lambda: "elsewhere")
    claim = take(tmp_path, "a")
    assert claim is not None
    monkeypatch.setattr(claims, "host", lambda: "here")
    watch = Watch(stale=60)
    assert not watch.dead("a", standing(tmp_path, "a"))
    clock[0] = 59
    assert not watch.dead("a", standing(tmp_path, "a"))
    os.utime(tmp_path / "a" / "0", (1, 1))  # a beat, whatever that machine's clock says
    assert not watch.dead("a", standing(tmp_path, "a"))
    clock[0] = 118
    assert not watch.dead("a", standing(tmp_path, "a"))
    clock[0] = 120
    assert watch.dead("a", standing(tmp_path, "a"))


def test_a_claim_that_was_outbid_is_not_held(tmp_path: Path) -> None:
    slow = take(tmp_path, "a")
    fast = take(tmp_path, "a", 1)
    assert slow is not None and fast is not None
    assert not slow.holds and fast.holds
    slow.release()
    assert fast.holds and standing(tmp_path, "a").number == 1


def test_what_a_claim_says_may_be_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0").write_text("{")
    found = standing(tmp_path, "a")
    assert found.number == 0 and not found.dead
