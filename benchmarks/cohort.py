"""A cohort on a Ray cluster whose workers and nodes die, and what the runner costs.

Usage: python benchmarks/cohort.py [--slides 1000] [--kills 10] [--seconds 0.2] [--overhead 20]

Slides sleep, so that two cores limit nothing. `--slides` of them run on a local cluster of two
nodes with four slots each; one node is killed half-way, and a worker at random `--kills` times.
Then a plain loop and the runner (one process; Ray with one slot) do five slides of `--overhead`
seconds each, side by side: what a run takes to start, once, and what a slide takes from then on.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cohort_cluster import node, patient, patiently, started

from zoomldm.cohort.items import Item
from zoomldm.cohort.pools import Pool, ProcessPool
from zoomldm.cohort.ray_pool import RayPool
from zoomldm.cohort.runner import run_cohort
from zoomldm.cohort.state import CLAIMS, States
from zoomldm.files import atomic_path

SLOTS = 4  # of a node


@dataclass(frozen=True)
class Sleep:
    """Sleeps, then writes a file; each slide that got so far leaves a line."""

    verb: ClassVar[str] = "sleep"
    out: Path
    seconds: float

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it does."""
        return {"seconds": self.seconds}

    def load(self) -> None:
        """Nothing."""

    def output(self, item: Item) -> Path:
        """The file."""
        return self.out / "made" / f"{item.key}.txt"

    def run(self, loaded: Any, item: Item, progress: Any) -> Mapping[str, Any]:
        """Sleep and write."""
        time.sleep(self.seconds)
        with atomic_path(self.output(item)) as part:
            part.write_text(item.key * 1000)
        with (self.out / "log").open("a") as log:
            log.write(f"{item.key}\n")
        return {}


def items_of(folder: Path, count: int) -> list[Item]:
    """Slides, of one byte each."""
    (folder / "slides").mkdir()
    (folder / "made").mkdir()
    items = []
    for number in range(count):
        path = folder / "slides" / f"slide-{number:05}.svs"
        path.write_bytes(b"x")
        items.append(Item(str(path), path.stem))
    return items


def ray_workers() -> list[int]:
    """Processes that work on a slide now."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                command = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::zoomldm sleep"):
                found.append(int(path.name))
    return found


def survives(cluster: Any, folder: Path, slides: int, kills: int, seconds: float) -> None:
    """Run a cohort on two nodes, kill on the way, and count what came of it."""
    import ray

    second = patiently(lambda: cluster.add_node(**node(SLOTS)))
    cluster.wait_for_nodes()
    items, job = items_of(folder, slides), Sleep(folder, seconds)
    done, random_ = [0], random.Random(0)
    killed: list[str] = []
    at = sorted(random_.randrange(slides // 20, slides * 19 // 20) for _ in range(kills))

    def strike() -> None:
        while done[0] < slides and (at or "node" not in killed):
            if at and done[0] >= at[0]:
                victims = ray_workers()
                if victims:
                    os.kill(random_.choice(victims), signal.SIGKILL)
                    killed.append("worker")
                    at.pop(0)
            if "node" not in killed and done[0] >= slides // 2:
                killed.append("node")
                cluster.remove_node(second, allow_graceful=False)
            time.sleep(0.02)

    events: Counter[str] = Counter()

    def note(event: Any) -> None:
        events[event.kind] += 1
        done[0] += event.kind in ("done", "failed")

    killer = threading.Thread(target=strike, daemon=True)
    killer.start()
    start = time.monotonic()
    pool = RayPool(job, cluster.address, cpus=1)
    result = run_cohort(job, items, pool, folder / "state", retries=5, on_event=note)
    took = time.monotonic() - start
    killer.join(5)
    states = States(folder / "state")
    records = [states.read(item.key) for item in items]
    lines = Counter((folder / "log").read_text().split())
    whole = sum(job.output(i).read_text() == i.key * 1000 for i in items if job.output(i).exists())
    print(f"{slides} slides of {seconds} s, two nodes of {SLOTS} slots: {took:.0f} s")
    print(f"  killed: {killed.count('worker')} workers, {killed.count('node')} node")
    print(f"  begun again: {events['again']}; attempts in all {result.attempts}")
    print(f"  states done {sum(r is not None and r.status == 'done' for r in records)}")
    print(f"  outputs whole {whole}; done more than once {sum(n > 1 for n in lines.values())}")
    print(f"  parts left {len(list(folder.rglob('*.part')))}", end="; ")
    print(f"claims left {len(list((folder / 'state' / CLAIMS).iterdir()))}", flush=True)
    ray.shutdown()


def overhead(cluster: Any, folder: Path, seconds: float, count: int = 5) -> None:
    """A plain loop and the runner, at the same time; Ray on the node that is left."""
    import ray

    ends: dict[str, list[float]] = {}
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")

    def measured(name: str, pool_of: Any) -> None:
        place = folder / name.replace(" ", "-")
        place.mkdir()
        items, job = items_of(place, count), Sleep(place, seconds)
        ends[name] = [time.monotonic()]

        def note(event: Any) -> None:
            if event.kind == "done":
                ends[name].append(time.monotonic())

        if pool_of is None:
            for item in items:
                job.run(None, item, None)
                ends[name].append(time.monotonic())
        else:
            pool: Pool = pool_of(job)
            run_cohort(job, items, pool, place / "state", on_event=note)

    kinds = {
        "plain loop": None,
        "one process": lambda job: ProcessPool(job, 1),
        "Ray, one slot": lambda job: RayPool(job, "auto", cpus=SLOTS),
    }
    threads = [threading.Thread(target=measured, args=pair) for pair in kinds.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{count} slides of {seconds:g} s, side by side")
    for name in kinds:
        times = ends[name]
        each = (times[-1] - times[1]) / (count - 1)
        first = times[1] - times[0] - each
        print(f"  {name:15} start {first:6.2f} s, a slide {each:6.2f} s, {each / seconds - 1:+.2%}")
    ray.shutdown()


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--overhead", type=float, default=20)
    given = parser.parse_args()
    patient()
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0]}))
    cluster = started(SLOTS)
    try:
        if given.slides:
            with tempfile.TemporaryDirectory() as folder:
                survives(cluster, Path(folder), given.slides, given.kills, given.seconds)
        with tempfile.TemporaryDirectory() as folder:
            overhead(cluster, Path(folder), given.overhead)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
