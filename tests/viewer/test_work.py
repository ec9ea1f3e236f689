"""The queue: one call for all that ask, the most urgent first, nothing for those who left."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from zoomldm.viewer.work import BusyError, WorkQueue


class Gate:
    """Work that waits until it may go on, and notes that it was done."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.done: list[str] = []

    def work(self, name: str) -> Callable[[], str]:
        def call() -> str:
            self.open.wait(10)
            self.done.append(name)
            return name

        return call


async def begun(queue: WorkQueue, gate: Gate) -> asyncio.Task:
    """A queue whose one worker is held up."""
    task = asyncio.create_task(queue.do("first", gate.work("first")))
    while not queue.running:
        await asyncio.sleep(0.001)
    return task


def test_one_call_for_all_that_ask() -> None:
    async def run() -> None:
        queue, gate = WorkQueue(1, 10), Gate()
        tasks = [asyncio.create_task(queue.do("a", gate.work("a"))) for _ in range(20)]
        await asyncio.sleep(0.01)
        gate.open.set()
        assert await asyncio.gather(*tasks) == ["a"] * 20
        assert gate.done == ["a"] and queue.counts.joined == 19
        await queue.close()

    asyncio.run(run())


def test_urgent_first_then_the_newest_and_a_second_asker_may_hurry() -> None:
    async def run() -> None:
        queue, gate = WorkQueue(1, 10), Gate()
        tasks = [await begun(queue, gate)]
        for name, rank in [("old", (3,)), ("new", (3,)), ("urgent", (1,)), ("late", (5,))]:
            tasks.append(asyncio.create_task(queue.do(name, gate.work(name), rank)))
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(queue.do("late", gate.work("late"), (0,))))
        await asyncio.sleep(0.01)
        gate.open.set()
        await asyncio.gather(*tasks)
        assert gate.done == ["first", "late", "urgent", "new", "old"]
        await queue.close()

    asyncio.run(run())


def test_what_nobody_waits_for_is_not_begun() -> None:
    async def run() -> None:
        queue, gate = WorkQueue(1, 10), Gate()
        first = await begun(queue, gate)
        alone = asyncio.create_task(queue.do("left", gate.work("left")))
        one, other = (asyncio.create_task(queue.do("kept", gate.work("kept"))) for _ in range(2))
        await asyncio.sleep(0.01)
        alone.cancel()
        one.cancel()
        await asyncio.sleep(0.01)
        assert queue.waiting == 1 and queue.counts.abandoned == 1
        gate.open.set()
        assert await other == "kept" and await first == "first"
        assert gate.done == ["first", "kept"]
        await queue.close()

    asyncio.run(run())


def test_a_full_queue_says_when_to_come_again() -> None:
    async def run() -> None:
        queue, gate = WorkQueue(1, 2), Gate()
        first = await begun(queue, gate)
        waiting = [asyncio.create_task(queue.do(n, gate.work(n))) for n in "ab"]
        await asyncio.sleep(0.01)
        with pytest.raises(BusyError) as refused:
            await queue.do("c", gate.work("c"))
        assert 1 <= refused.value.seconds <= 30
        gate.open.set()
        await asyncio.gather(first, *waiting)
        assert await queue.do("c", gate.work("c")) == "c"
        await queue.close()

    asyncio.run(run())


def test_faults_reach_all_and_the_queue_goes_on() -> None:
    async def run() -> None:
        queue = WorkQueue(1, 10)

        def fail() -> None:
            raise ValueError("no")

        tasks = [asyncio.create_task(queue.do("a", fail)) for _ in range(3)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(e) for e in found] == ["no"] * 3
        assert await queue.do("a", lambda: 1) == 1
        await queue.close()

    asyncio.run(run())


def test_an_end_refuses_what_waits_and_waits_for_what_runs() -> None:
    async def run() -> None:
        queue, gate = WorkQueue(1, 10), Gate()
        first = await begun(queue, gate)
        second = asyncio.create_task(queue.do("b", gate.work("b")))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(queue.close())
        await asyncio.sleep(0.01)
        with pytest.raises(BusyError):
            await second
        with pytest.raises(BusyError):
            await queue.do("c", gate.work("c"))
        gate.open.set()
        await closing
        assert await first == "first" and gate.done == ["first"]

    asyncio.run(run())
