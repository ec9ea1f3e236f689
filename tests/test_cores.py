"""Cores that a process may use."""

import os

import pytest

from zoomldm.cores import cores


def test_no_more_than_it_is_bound_to_or_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == 6
    for threads, expected in (("2", 2), ("64", 6), ("0", 1), ("4,2", 6)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert cores() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
