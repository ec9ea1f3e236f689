"""What a run says while it trains: a line, a JSON-lines file, TensorBoard, pictures."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter


class Progress:
    """Writes `log.jsonl`, `tensorboard/` and `pictures/` below the run, and prints one line a log.

    Args:
        run: folder of the run.
        total: steps of the whole run.
        start: step that this process begins at; later entries of an interrupted run are dropped.
        quiet: print nothing.
    """

    def __init__(self, run: Path, total: int, start: int, *, quiet: bool = False) -> None:
        self.file = run / "log.jsonl"
        if self.file.exists():
            kept = [x for x in _entries(self.file) if x["step"] <= start]
            self.file.write_text("".join(json.dumps(x) + "\n" for x in kept))
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start)
        self.folder = run / "pictures"
        self.total, self.start, self.begin = total, start, time.monotonic()
        self.console = Console(stderr=True, quiet=quiet)

    def _write(self, step: int, kind: str, values: dict[str, float]) -> None:
        entry = {"step": step, "kind": kind, **{k: round(v, 6) for k, v in values.items()}}
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for key, value in values.items():
            self.board.add_scalar(f"{kind}/{key}", value, step)

    def losses(self, step: int, values: dict[str, Any]) -> None:
        """Log the losses of one step; NaN entries (levels absent from the batch) are left out."""
        numbers = {k: v.item() if isinstance(v, Tensor) else v for k, v in values.items()}
        self._write(step, "train", {k: v for k, v in numbers.items() if v == v})
        spent = time.monotonic() - self.begin
        rate = (step - self.start) / max(spent, 1e-9)
        left = (self.total - step) / max(rate, 1e-9)
        self.console.print(
            f"step {step}/{self.total}  loss {numbers['loss']:.4f}  "
            f"{rate:.2f} steps/s  {left / 60:.0f} min left",
            highlight=False,
        )

    def held_out(self, step: int, values: dict[str, float]) -> None:
        """Log losses on held-out data."""
        if values:
            self._write(step, "held-out", values)
            self.console.print(f"step {step}  held-out {values}", highlight=False)

    def picture(self, step: int, picture: np.ndarray | None) -> None:
        """Keep a picture (H, W, 3) uint8 as PNG and in TensorBoard."""
        if picture is not None:
            self.folder.mkdir(exist_ok=True)
            Image.fromarray(picture).save(self.folder / f"step-{step:08d}.png")
            self.board.add_image("pictures", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush everything."""
        self.board.close()


def _entries(file: Path) -> list[dict]:
    entries = []
    for line in file.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:  # the line that a kill cut short
            continue
    return entries
