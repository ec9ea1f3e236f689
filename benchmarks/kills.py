"""SIGKILL at random moments while compressing and while training.

Usage: python benchmarks/kills.py [--kills 25] [--what compress,train] [--seed 0]

Each run is killed at a random moment between the start of the work and its usual end; runs that
end before are not counted as kills. After each, the final name must be absent or sound; at the
end the same command must complete, and a killed archive must have the same bytes as one made
without kills.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from paths import painted
from safetensors.torch import load_file

from zoomldm.archive import verify_archive

MOST = 5  # runs for each kill that is wanted
ZOOMLDM = [sys.executable, "-m", "zoomldm"]


def run_killed(command: list[str], after: float) -> bool:
    """Run a command and kill it after so many seconds; whether it was still running."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, error = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        print(f"  ended with code {process.returncode}: {error.strip()}")
    return False


def whole(command: list[str]) -> float:
    """Seconds of a command that must succeed."""
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def kill_compress(folder: Path, kills: int, rng: random.Random) -> bool:
    """Kill compress; True if all is as it must be."""
    slide, target = painted(folder), folder / "a.zldm"
    command = [*ZOOMLDM, "compress", str(slide), "--for-training", "--pipeline", "tiny", "-o"]
    usual = whole([*command, str(folder / "whole.zldm")])
    killed = broken = runs = 0
    while killed < kills and runs < MOST * kills:
        runs += 1
        target.unlink(missing_ok=True)
        killed += run_killed([*command, str(target)], rng.uniform(0.1, 1.05) * usual)
        broken += target.exists() and bool(verify_archive(target))
    whole([*command, str(target)])
    same = target.read_bytes() == (folder / "whole.zldm").read_bytes()
    left = sorted(p.name for p in folder.iterdir() if p.name.startswith("."))
    print(
        f"compress: {killed} kills in {runs} runs, {broken} broken files under the final name; "
        f"the same command completes, bytes {'equal' if same else 'DIFFER'}, "
        f"left behind: {left or 'nothing'}"
    )
    return not broken and same and not left and killed == kills


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All weights of the pipeline of a run."""
    return {
        f"{path.parent.name}/{name}": value
        for path in sorted((run / "pipeline").rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def broken_files(run: Path) -> int:
    """Weight files under final names that can't be loaded."""
    count = 0
    for path in run.rglob("*.safetensors"):
        if any(part.startswith(".") or part.endswith(".part") for part in path.parts):
            continue
        try:
            load_file(path)
        except Exception as error:
            print(f"  {path}: {error}")
            count += 1
    return count


def kill_train(folder: Path, kills: int, rng: random.Random) -> bool:
    """Kill train; True if all is as it must be."""
    data = folder / "data"
    data.mkdir()
    for seed in (1, 2):
        slide = painted(folder, 1300, 1100, tissue=0.8, seed=seed)
        target = data / f"{seed}.zldm"
        slide = slide.rename(folder / f"{seed}.tif")
        whole([*ZOOMLDM, "compress", str(slide), "-o", str(target), "--for-training",
               "--pipeline", "tiny"])  # fmt: skip
    command = [*ZOOMLDM, "train", "--preset", "tiny", "--data", str(data), "--steps", "30",
               "--threads", "1", "--set", "save_every=2", "--set", "show_every=1000",
               "--json", "-o"]  # fmt: skip
    usual = whole([*command, str(folder / "whole")])
    killed = broken = finished = runs = 0
    while killed < kills and runs < MOST * kills:
        runs += 1
        died = run_killed([*command, str(folder / "run")], rng.uniform(0.3, 1.0) * usual)
        killed += died
        finished += not died
        broken += broken_files(folder / "run")
        if not died:  # done: start over
            (folder / "run").rename(folder / f"done{finished}")
    whole([*command, str(folder / "run")])
    expected, found = weights(folder / "whole"), weights(folder / "run")
    same = expected.keys() == found.keys() and all(
        torch.equal(expected[name], found[name]) for name in expected
    )
    print(
        f"train: {killed} kills in {runs} runs ({finished} reached the end between kills), "
        f"{broken} broken files under final names; the same command completes, weights "
        f"{'bit-equal to an uninterrupted run' if same else 'DIFFER'}"
    )
    return not broken and same and killed == kills


def main() -> int:
    """Kill and count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--what", default="compress,train")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, ok = random.Random(options.seed), True
    for what in options.what.split(","):
        with tempfile.TemporaryDirectory() as folder:
            kill = kill_compress if what == "compress" else kill_train
            ok &= kill(Path(folder), options.kills, rng)
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
