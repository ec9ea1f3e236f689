"""Batches side by side."""

import threading
from collections.abc import Iterator

import pytest
import torch

from zoomldm.generation.workers import side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_in_order_on_a_share_of_the_threads_each(threads: int) -> None:
    together = threading.Barrier(threads, timeout=30)

    def part(i: int) -> tuple[int, int]:
        together.wait()  # comes back only if three run at once
        return i, torch.get_num_threads()

    assert list(side_by_side(part, range(6), CPU)) == [(i, 1) for i in range(6)]
    assert torch.get_num_threads() == threads
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [threads]  # the workers' share is theirs alone


def test_one_thread_or_another_device_runs_in_the_caller(threads: int) -> None:
    own = threading.get_ident()
    assert set(side_by_side(lambda _: threading.get_ident(), [1, 2], torch.device("meta"))) == {own}
    torch.set_num_threads(1)
    assert set(side_by_side(lambda _: threading.get_ident(), [1, 2], CPU)) == {own}


def test_an_error_comes_out(threads: int) -> None:
    def part(i: int) -> int:
        if i == 2:
            raise ValueError("of part 2")
        return i

    results = side_by_side(part, range(4), CPU)
    assert next(results) == 0
    with pytest.raises(ValueError, match="of part 2"):
        list(results)
