"""Everything that docs/ quotes of a pipeline on the held-out slides, in one command, side by side.

    python benchmarks/measure_all.py PIPELINE DATA -o OUT --seconds 420 [--packed FOLDER]

DATA holds `slides/` (the two held-out ones), `val3/` (their archives as docs/fidelity.md has them),
`arch15/` (archives of all fifteen slides), `demo.zldm` and `index.csv`. Slides of training cases
are unpacked from --packed (benchmarks/demo_weights/pack.py); without it what needs them is left
out. Each measure is a process of its own, with a limit of its own, and a folder of its own: `log`
(its command, output and seconds) and whatever it wrote. They start in the order of `jobs`, as many
at once as there are cores; one that fails on the GPU within two minutes is tried once more on the
CPU. OUT gets `measured.tgz.0`, `.1` ... again every half a minute, so that little is lost when the
whole is killed: `cat measured.tgz.* | tar xz`. `join_pages.py` makes one page of parts.
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
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
HELD = ("giardia__HE", "breast-lobular-carcinoma__HE")
OTHERS = (
    *("PDAC-tru-cut__HE1", "PDAC-tru-cut__HE3", "crohn-colonoscopic-biopsy__HE4"),
    *("duodenum-tubular-adenoma__HE", "eosinophilic-esophagitis__HE"),
    *(f"lung-squamous-cell-carcinoma__HE{i}" for i in (1, 2, 3, 4)),
    "signet-ring-cell-carcinoma__HE",
)
CROHN = "crohn-colonoscopic-biopsy__HE4"
PART = 15 << 20  # bytes of a file of OUT
KEPT_OUT = (".safetensors", ".zldm", ".part")  # and folders of slides: not brought home
PACK_EVERY = 25  # s
RETRY = 120  # s


@dataclass
class Job:
    """A measure.

    Attributes:
        name: also of its folder.
        command: words; `{...}` are filled in.
        limit: s.
        after: names of the jobs whose output it reads.
        packed: whether it needs slides of training cases.
        env: more of its environment.
    """

    name: str
    command: str
    limit: int
    after: tuple[str, ...] = ()
    packed: bool = False
    env: dict[str, str] = field(default_factory=dict)


def fidelity(slide: str, tiles: str, regions: str, levels: str, mark: str) -> Job:
    """One slide at some levels."""
    shown = "".join(f" --level {level}" for level in levels.split())
    return Job(
        f"fidelity{mark}-{slide.split('-')[0].split('_')[0]}-{levels.replace(' ', '-')}",
        f"{{zoomldm}} evaluate fidelity {{slides}}/{slide}.svs {{data}}/val3/{slide}.zldm "
        f"-o fidelity.md --pipeline {{pipeline}} --tiles {tiles} --regions {regions}{shown} "
        "--batch 8 --device {device}",
        400,
    )


def rates(slide: str, level: str) -> Job:
    """One slide's rates at a level."""
    return Job(
        f"rates-{slide.split('-')[0].split('_')[0]}-{level}",
        f"{{zoomldm}} evaluate rates {{slides}}/{slide}.svs -o rates.md {{rates}} "
        f"--level {level} --tiles {{rate_tiles}} --regions 0 --pipeline {{pipeline}} "
        "--device {device}",
        400,
    )


def jobs() -> list[Job]:
    """All of them, the most important first."""
    both = " ".join(f"{{slides}}/{name}.svs" for name in HELD)
    rest = " ".join(f"{{slides}}/{name}.svs" for name in OTHERS)
    other = " ".join(f"--other {{slides}}/{name}.svs" for name in OTHERS)
    giardia, breast = (f"{{slides}}/{name}.svs" for name in HELD)
    samples = "{zoomldm} evaluate samples"
    drawn = "-n {n} {fine} -o . --pipeline {pipeline} --batch 16 --device {device}"
    steps = "{python} {here}/steps.py {slides}"
    measured = "--pipeline {pipeline} --tiles {steps_tiles} --full --device {device}"
    upscaling = f"{{python}} {{here}}/upscaling.py {both} -o upscaled.jpg --pipeline {{pipeline}}"
    regression = "--regression {work}/regression/regression.safetensors --device {device}"
    large = (
        f"{{python}} {{here}}/large_methods.py {{data}}/demo.zldm -o large.jpg --slide {giardia}"
    )
    seams = "{python} {here}/seams.py {data}/arch15/*.zldm --slides {data}/slides"
    return [
        Job(
            "unpack",
            "{python} {here}/demo_weights/unpack.py {packed} {data}/arch15 -o {slides} "
            "--workers 8 {unpacked}",
            120,
            packed=True,
        ),
        *(fidelity(name, "{tiles}", "1", "20x", "") for name in HELD),
        *(fidelity(name, "{tiles}", "0", "10x", "") for name in HELD),
        *(fidelity(name, "{tiles}", "0", "5x", "") for name in HELD),
        *(
            Job(
                f"steps-{n.split('_')[0]}",
                f"{steps}/{n}.svs {{data}}/val3/{n}.zldm {measured}",
                300,
            )
            for n in HELD
        ),
        Job(
            "regression",
            f"{{python}} {{here}}/regression.py {rest} -o regression.safetensors --minutes 60 "
            "--wall {wall} --batch 16 --device {device}",
            240,
            ("unpack",),
            True,
            {"NVIDIA_TF32_OVERRIDE": "1"},
        ),
        Job(
            "imaginary",
            f"{{python}} {{here}}/imaginary.py {both} -o imaginary.jpg {{imaginary}} "
            f"--batch 8 --training {rest} --pipeline {{pipeline}} --device {{device}}",
            400,
            ("unpack",),
            True,
        ),
        Job(
            "samples",
            f"{samples} {both} {other} --cases {{data}}/index.csv --archive {{data}}/arch15 "
            + drawn,
            300,
            ("unpack",),
            True,
        ),
        Job(
            "steps-crohn",
            f"{steps}/{CROHN}.svs {{data}}/arch15/{CROHN}.zldm {measured}",
            300,
            ("unpack",),
            True,
        ),
        Job("large", f"{large} {{large}} --pipeline {{pipeline}} --device {{device}}", 300),
        Job(
            "samples-giardia",
            f"{samples} {giardia} --other {breast} --archive {{data}}/arch15 {drawn}",
            200,
        ),
        Job(
            "samples-breast",
            f"{samples} {breast} --other {giardia} --archive {{data}}/arch15 {drawn}",
            200,
        ),
        Job(
            "sheets",
            "{python} {here}/sample_sheets.py . --pipeline {pipeline} --device {device}",
            200,
        ),
        Job("upscaling", f"{upscaling} {{crops}} {regression}", 240, ("regression",), True),
        Job(
            "inversion",
            f"{upscaling} --crops 1 --side {{inverted}} --inversion --device {{device}}",
            300,
        ),
        *(rates(name, "20x") for name in HELD),
        Job(
            "seams",
            f"{seams} --sheet borders.jpg {{seams}} --pipeline {{pipeline}} --device {{device}}",
            300,
        ),
        Job(
            "seams-blended",
            f"{seams} --method blended {{seams}} --pipeline {{pipeline}} --device {{device}}",
            400,
        ),
        Job(
            "copies",
            "{zoomldm} evaluate copies --data {data}/arch15 --cases {data}/index.csv --holdout "
            "giardia,breast-lobular-carcinoma -n {n} -o . --pipeline {pipeline} --batch 16 "
            "--device {device}",
            300,
        ),
        Job(
            "strip",
            "{python} {here}/interpolations.py {data}/demo.zldm -o strip.jpg --pipeline {pipeline} "
            "--device {device}",
            120,
        ),
        Job(
            "training",
            f"{{zoomldm}} compress {both} -o . --for-training --pipeline {{pipeline}} "
            "--device {device}",
            200,
        ),
        Job(
            "outline",
            "{python} {here}/outline.py {work}/training/*.zldm --windows {windows} --pipeline "
            "{pipeline} --device {device}",
            200,
            ("training",),
        ),
        Job(
            "fidelity-blended",
            f"{{zoomldm}} evaluate fidelity {giardia} {{data}}/val3/{HELD[0]}.zldm -o fidelity.md "
            "--pipeline {pipeline} --tiles {tiles} --regions 1 --level 20x --no-alone --method "
            "blended --device {device}",
            300,
        ),
        *(rates(name, "10x") for name in HELD),
        *(
            fidelity(name, "{more}", "2", level, "-100")
            for level in ("20x", "10x")
            for name in HELD
        ),
    ]


FULL = {
    "tiles": "60",
    "more": "100",
    "rate_tiles": "60",
    "rates": "--archive 45:5x --archive 30:5x --archive 60:5x --archive 100:5x --archive 60:2.5x "
    "--archive none",
    "fine": "--level 20x --level 10x --level 5x",
    "steps_tiles": "96",
    "n": "48",
    "wall": "2.5",
    "imaginary": "--seeds 2",
    "large": "--size 1024x1024 --batch 16",
    "crops": "--crops 4",
    "inverted": "512",
    "seams": "",
    "windows": "64",
    "unpacked": "",
}
SMALL = {  # to see that everything runs
    "tiles": "4",
    "more": "4",
    "rate_tiles": "4",
    "rates": "--archive 45:5x",
    "fine": "--level 20x",
    "steps_tiles": "4",
    "n": "8",
    "wall": "0.2",
    "imaginary": "--seeds 1 --crops 1 --side 2 --patches 8 --levels 2 4 --render-steps 1",
    "large": "--size 512x512 --inner 1",
    "crops": "--crops 1 --side 256",
    "inverted": "256",
    "seams": "--limit 2 --large 0",
    "windows": "2",
    "unpacked": "",
}


class Runner:
    """Runs jobs side by side until the seconds are over."""

    def __init__(self, given: argparse.Namespace, words: dict[str, str]) -> None:
        self.given, self.words = given, words
        self.until = time.monotonic() + given.seconds
        self.waiting = [j for j in jobs() if given.packed or not j.packed]
        if given.only:
            self.waiting = [j for j in self.waiting if j.name.startswith(tuple(given.only))]
        self.running: dict[str, tuple[Job, subprocess.Popen, float, float]] = {}
        self.done: dict[str, int] = {}
        self.device = {job.name: given.device for job in self.waiting}

    def begin(self, job: Job) -> None:
        """Start a job in its folder."""
        folder = self.given.work / job.name
        folder.mkdir(parents=True, exist_ok=True)
        told = job.command.format(**self.words, device=self.device[job.name])
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
        log.write(f"$ {told}\n")
        log.flush()
        now = time.monotonic()
        process = subprocess.Popen(
            ["/bin/bash", "-c", f"exec {told}"],
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
            and path.suffix not in KEPT_OUT
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
    if given.names:
        global OTHERS, CROHN
        OTHERS, CROHN = tuple(given.names), given.names[0]
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
