"""The log of a training run: lines, a JSON-lines file, TensorBoard, images."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from zoomldm.files import atomic_path

_log = logging.getLogger(__name__)


class RunningMeans:
    """Means of named values since the last call of `take`."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Any]) -> None:
        """Add one step's values; a name may be absent from some steps."""
        for key, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self.sums[key] = self.sums.get(key, 0) + value
            self.counts[key] = self.counts.get(key, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the means and start anew."""
        means = {key: float(value) / self.counts[key] for key, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class RunLog:
    """Writes `log.jsonl`, `tensorboard/` and `pictures/` below the run, and logs one line for each.

    Args:
        run: folder of the run.
        total: steps of the whole run.
        start: step at which this process begins; an interrupted run's later entries are dropped.
    """

    def __init__(self, run: Path, total: int, start: int) -> None:
        self.file = run / "log.jsonl"
        if self.file.exists():
            retained = [x for x in _entries(self.file) if x["step"] <= start]
            with atomic_path(self.file) as fresh:
                fresh.write_text("".join(json.dumps(x) + "\n" for x in retained))
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start)
        self.folder = run / "pictures"
        self.total, self.start, self.begin = total, start, time.monotonic()

    def _write(self, step: int, kind: str, values: dict[str, float]) -> None:
        entry = {"step": step, "kind": kind, **{k: round(v, 6) for k, v in values.items()}}
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for key, value in values.items():
            self.board.add_scalar(f"{kind}/{key}", value, step)

    def losses(self, step: int, values: dict[str, float]) -> None:
        """Log mean losses up to a step."""
        self._write(step, "train", values)
        spent = time.monotonic() - self.begin
        rate = (step - self.start) / max(spent, 1e-9)
        left = (self.total - step) / max(rate, 1e-9)
        of, loss, minutes = f"step {step}/{self.total}", values["loss"], left / 60
        _log.info(f"{of}  loss {loss:.4f}  {rate:.2f} steps/s  {minutes:.0f} min left")

    def held_out(self, step: int, values: dict[str, float]) -> None:
        """Log losses on held-out data."""
        if values:
            self._write(step, "held-out", values)
            # One number for each set; those of single levels, `set/20x`, are in the files.
            brief = "  ".join(f"{k} {v:.4f}" for k, v in values.items() if "/" not in k)
            _log.info(f"step {step}  {brief}")

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Log the figures of a validation."""
        self._write(step, "validation", values)

    def image(self, step: int, image: np.ndarray | None) -> None:
        """Save an image (H, W, 3) uint8 as PNG and to TensorBoard."""
        if image is not None:
            self.folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(self.folder / f"step-{step:08d}.png")
            self.board.add_image("pictures", image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush everything."""
        self.board.close()


def _entries(file: Path) -> list[dict]:
    entries = []
    for line in file.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:  # a line cut short when the process was killed
            continue
    return entries
