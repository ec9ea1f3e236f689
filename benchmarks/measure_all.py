"""Everything that docs/ quotes of a pipeline on the held-out slides, in one command, side by side.

    python benchmarks/measure_all.py PIPELINE DATA -o OUT --seconds 420 [--packed FOLDER]

DATA holds `slides/` (the two held-out ones), `val3/` (their archives as docs/fidelity.md has them),
`arch15/` (archives of all fifteen slides), `demo.zldm` and `index.csv`. Slides of training cases
are unpacked from --packed (benchmarks/demo_weights/pack.py); without it what needs them is left
out. Each measure is a process of its own, with a limit of its own, and a folder of its own: `log`
(its command, output and seconds) and whatever it wrote. They start in the order of
`measure_jobs.py`, as many at once as there are cores; one that fails on the GPU within two minutes
is tried once more on the CPU. OUT gets `measured.tgz.0`, `.1` ... again every half a minute, so
that little is lost when the whole is killed: `cat measured.tgz.* | tar xz`. `join_pages.py` makes
one page of parts.
"""

import argparse
import io
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from measure_jobs import FULL, HELD, OTHERS, SMALL, Job, jobs

HERE = Path(__file__).parent
PART = 15 << 20  # bytes of a file of OUT
EXCLUDED = (".safetensors", ".zldm", ".part")  # and folders of slides: not brought home
PACK_EVERY = 25  # s
RETRY = 120  # s


class Runner:
    """Runs jobs side by side until the seconds are over."""

    def __init__(self, given: argparse.Namespace, words: dict[str, str]) -> None:
        self.given, self.words = given, words
        self.until = time.monotonic() + given.seconds
        self.waiting = [j for j in jobs(given.names or OTHERS) if given.packed or not j.packed]
        if given.only:
            self.waiting = [j for j in self.waiting if j.name.startswith(tuple(given.only))]
        self.running: dict[str, tuple[Job, subprocess.Popen, float, float]] = {}
        self.done: dict[str, int] = {}
        self.device = {job.name: given.device for job in self.waiting}

    def begin(self, job: Job) -> None:
        """Start a job in its folder."""
        folder = self.given.work / job.name
        folder.mkdir(parents=True, exist_ok=True)
        command = job.command.format(**self.words, device=self.device[job.name])
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "NVIDIA_TF32_OVERRIDE": "0",  # figures are to be those of a CPU
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "160",
            **job.env,
        }
        log = (folder / "log").open("a")
        log.write(f"$ {command}\n")
        log.flush()
        now = time.monotonic()
        process = subprocess.Popen(
            ["/bin/bash", "-c", f"exec {command}"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        log.close()
        self.running[job.name] = job, process, now, now + job.limit

    def step(self) -> None:
        """See what ended, end what ran too long, start what can be."""
        for name, (job, process, began, until) in list(self.running.items()):
            code, now = process.poll(), time.monotonic()
            if code is None and now >= min(until, self.until):
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
            if code is None:
                continue
            del self.running[name]
            with (self.given.work / name / "log").open("a") as log:
                log.write(f"[{now - began:.0f} s on {self.device[name]}, exit code {code}]\n")
            print(f"{name}: exit code {code} after {now - began:.0f} s", flush=True)
            if code > 0 and now - began < RETRY and self.device[name] != "cpu":
                self.device[name] = "cpu"
                self.waiting.insert(0, job)
            else:
                self.done[name] = code
        for job in list(self.waiting):
            if len(self.running) >= self.given.cores or self.until - time.monotonic() < 15:
                return
            names = {j.name for j in self.waiting} | set(self.running)
            if any(self.done.get(n, 0) for n in job.after):
                self.waiting.remove(job)
                print(f"{job.name}: left out, {', '.join(job.after)} failed", flush=True)
            elif not names.intersection(job.after):
                self.waiting.remove(job)
                self.begin(job)

    def pack(self) -> None:
        """What there is so far into OUT, text first."""
        files = [
            path
            for path in self.given.work.rglob("*")
            if path.is_file()
            and path.suffix not in EXCLUDED
            and not path.is_relative_to(self.given.work / "slides")
            and path.stat().st_size < PART
        ]
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w:gz", compresslevel=3) as tar:
            for path in sorted(files, key=lambda p: (p.suffix in (".jpg", ".png"), str(p))):
                tar.add(path, str(path.relative_to(self.given.work)))
        data = held.getvalue()
        for number, start in enumerate(range(0, len(data), PART)):
            target = self.given.out / f"measured.tgz.{number}"
            fresh = target.with_suffix(".new")
            fresh.write_bytes(data[start : start + PART])
            fresh.rename(target)

    def run(self) -> None:
        """All of it."""
        packed = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(self, "until", 0.0))  # ends, and packs
        while self.waiting or self.running:
            self.step()
            if not self.running and time.monotonic() > self.until - 15:
                break
            if time.monotonic() - packed > PACK_EVERY:
                self.pack()
                packed = time.monotonic()
            time.sleep(0.2)
        self.pack()
        for job in self.waiting:
            print(f"{job.name}: not begun", flush=True)


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--packed", type=Path, help="packed slides of training cases")
    parser.add_argument("--work", type=Path, default=Path("/tmp/measured"))  # noqa: S108
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="*", help="what names begin with")
    parser.add_argument("--small", action="store_true", help="as little as runs at all")
    parser.add_argument("--names", nargs="*", help="of packed slides that are unpacked, and used")
    given = parser.parse_args()
    for name in ("pipeline", "data", "out", "packed", "work"):
        if getattr(given, name) is not None:
            setattr(given, name, getattr(given, name).resolve())
    slides = given.work / "slides"
    slides.mkdir(parents=True, exist_ok=True)
    for name in HELD:
        link = slides / f"{name}.svs"
        if not link.exists():
            link.symlink_to(given.data / "slides" / f"{name}.svs")
    python = shlex.quote(sys.executable)
    words = {
        **(SMALL if given.small else FULL),
        **{n: str(getattr(given, n)) for n in ("pipeline", "data", "packed", "work")},
        **{"slides": str(slides), "here": str(HERE.resolve())},
        **{"python": python, "zoomldm": f"{python} -m zoomldm"},
    }
    if given.names:
        words["unpacked"] = f"--names {' '.join(given.names)}"
    given.out.mkdir(parents=True, exist_ok=True)
    Runner(given, words).run()


if __name__ == "__main__":
    main()
