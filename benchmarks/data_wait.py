"""What share of a training step is spent waiting for its data.

Usage: python benchmarks/data_wait.py SLIDE... [--presets tiny-octaves demo] [--steps 12]

The slides are compressed for training, then the decoder and the diffusion stage of each preset
make a few steps by the loop that `zoomldm train` runs, without pictures and checkpoints in between.
Without a GPU a batch is drawn when a step asks for it, so drawing is waiting; beside a GPU a thread
draws the next batch while a step runs, and one waits only where drawing takes longer than a step.
So printed are processor times of this thread, the share, and how many items a second one drawing
thread gives: a GPU that trains faster than that waits for it.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from zoomldm.archive import open_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.data.slide_patches import SlidePatches, cache_tiles
from zoomldm.pipeline import load_pipeline
from zoomldm.training.loop import train
from zoomldm.training.stage import Data, Stage
from zoomldm.training.train import TrainOptions, begin

SKIPPED = 2  # steps at the beginning, which warm caches up
STAGES = ("diffusion", "autoencoder")


class Timed:
    """Notes when each batch was asked for and when it was there, in seconds of this thread."""

    def __init__(self, stage: Stage) -> None:
        self.draw, self.asked, self.there = stage.batch, [], []

    def __call__(self, rng: np.random.Generator, size: int) -> dict:
        """Draw as the stage does."""
        self.asked.append(time.thread_time())
        batch = self.draw(rng, size)
        self.there.append(time.thread_time())
        return batch

    def seconds(self) -> tuple[float, float]:
        """Mean of drawing a batch, and of a step with it."""
        asked, there = np.array(self.asked), np.array(self.there)
        return float((there - asked)[SKIPPED:].mean()), float(np.diff(asked)[SKIPPED:].mean())


def measure(name: str, preset: str, slides: list[Path], folder: Path, steps: int) -> None:
    """Print the line of a stage and a preset."""
    pipeline = preset if preset.startswith("tiny") else "demo"
    settings = {"steps": steps, "save_every": 10**6, "show_every": 10**6, "log_every": 10**6}
    options = TrainOptions(name, preset, {**settings, "threads": 1}, device="cpu")
    source = "archives" if name == "diffusion" else "slides"
    kind, start = begin(options, pipeline, source)
    base, run = kind.start(start), folder / f"{name}-{preset}"
    run.mkdir()
    names = tuple(path.name for path in slides)
    if source == "archives":
        archives = []
        for slide in slides:
            out = run / f"{slide.stem}.zldm"
            model = load_pipeline(pipeline)
            compress(slide, out, CompressOptions(for_training=True), pipeline=model, name=pipeline)
            archives.append(open_archive(out))
        data = Data(run, names, archives=tuple(archives))
    else:
        cache_tiles(slides, folder / "tiles")
        data = Data(run, names, patches=SlidePatches(folder / "tiles", list(names)))
    stage = kind.from_data(base, start, data)
    timed = Timed(stage)
    stage.batch = timed  # type: ignore[method-assign]
    stage.held_out = dict  # type: ignore[method-assign]
    stage.images = lambda: None  # type: ignore[method-assign]
    train(stage, start.config, run, device="cpu")
    draw, step = timed.seconds()
    size = start.config.batch_size
    print(
        f"| {name} | {preset} | {size} | {draw * 1e3:.0f} | {step * 1e3:.0f} "
        f"| {draw / step:.1%} | {size / draw:.0f} |",
        flush=True,
    )


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--presets", nargs="+", default=["tiny-octaves", "demo"])
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    print(
        "| stage | preset | batch | drawing, ms | step, ms | waiting | items/s one thread draws |"
    )
    print("|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for preset in given.presets:
            for name in STAGES:
                measure(name, preset, given.slides, Path(folder), given.steps)


if __name__ == "__main__":
    main()
