"""`mil` on made-up cohorts of 1,000 and 5,000 slides: open files, memory, time.

    python benchmarks/mil_cohort.py [--slides 1000,5000] [--instances 128] [--dim 512]

Each slide is one h5 file, as `zoomldm features --fixed` writes it. The run has the usual limit of
1,024 open files. Memory is what no file backs, of all processes together: the system's cache of
files isn't counted, for it gives way. Exits 1 if a run fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

CODE = """
import resource, sys, threading, time
from pathlib import Path

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from zoomldm.mil import MilOptions, run_mil


def own():  # memory of this process and of its children that no file backs, in kB
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if str(pid) in (folder.name, fields["PPid"].strip()):
                total += int(fields["RssAnon"].split()[0])
        except (OSError, KeyError):
            pass
    return total


if __name__ == "__main__":
    import os

    pid, most, files = os.getpid(), 0, 0
    options = MilOptions(
        labels=sys.argv[2],
        folds=2,
        models=("logistic", "mean-pool", "clam-sb"),
        fractions=(0.25,),
        epochs=1,
        jobs=int(sys.argv[4]),
        plots=False,
    )
    done = threading.Event()

    def watch():
        global most, files
        while not done.wait(0.5):
            most = max(most, own())
            files = max(files, len(os.listdir("/proc/self/fd")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run_mil(sys.argv[1], sys.argv[3], options)
    finally:
        done.set()
        watcher.join()
    print(most, files)
"""


def write_cohort(folder: Path, slides: int, instances: int, dim: int) -> None:
    """Write `slides` h5 files of noise, a class apart, and their labels."""
    draw = np.random.default_rng(0)
    (folder / "features").mkdir()
    rows = ["slide_id,case_id,label"]
    for i in range(slides):
        values = draw.standard_normal((instances, dim)).astype(np.float16) + i % 2
        with h5py.File(folder / "features" / f"s{i}.h5", "w") as file:
            file["features"] = values
            file["coords"] = np.stack([np.arange(instances) * 256, np.zeros(instances, int)], 1)
        rows.append(f"s{i},c{i // 2 * 2 + i % 2},{i % 2}")
    (folder / "labels.csv").write_text("\n".join(rows))


def main() -> None:
    """Write each cohort, run it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", default="1000,5000")
    parser.add_argument("--instances", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    failed = False
    print("| slides | features | open files | own memory, all processes | time |")
    print("|---|---|---|---|---|", flush=True)
    for slides in map(int, arguments.slides.split(",")):
        folder = Path(tempfile.mkdtemp(prefix="mil-cohort-"))
        try:
            write_cohort(folder, slides, arguments.instances, arguments.dim)
            (folder / "out").mkdir()
            (folder / "run.py").write_text(CODE)
            given = [str(folder / name) for name in ("features", "labels.csv", "out")]
            begin = time.monotonic()
            run = subprocess.run(
                [sys.executable, str(folder / "run.py"), *given, str(arguments.jobs)],
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            seconds = time.monotonic() - begin
            size = slides * arguments.instances * arguments.dim * 4 / 1e6
            if run.returncode:
                failed = True
                last = (run.stderr.strip().splitlines() or ["?"])[-1]
                print(f"| {slides} | {size:.0f} MB | failed: {last} | | {seconds:.0f} s |")
                continue
            memory, files = map(int, run.stdout.split())
            print(
                f"| {slides} | {size:.0f} MB | {files} | {memory / 1e3:.0f} MB | {seconds:.0f} s |",
                flush=True,
            )
        finally:
            shutil.rmtree(folder)
    sys.exit(failed)


if __name__ == "__main__":
    main()
