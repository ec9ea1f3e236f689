"""Validation of a run's weights: a cheap measure of their images, and storage of the best."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.files import atomic_folder

_log = logging.getLogger(__name__)

SCORE = "score"
_NOTE = "best.json"


def likeness(encoder: Any, images: Tensor, own: Tensor) -> dict[str, float]:
    """How well a patch encoder recognises tiles in images generated from their embeddings alone.

    Args:
        encoder: the patch encoder.
        images: (n, 3, 256, 256) in [-1, 1], generated.
        own: (n, D) embedding that each image was generated from.

    Returns:
        `cosine`, the mean cosine of the two embeddings; `retrieved`, the fraction of images whose
        own embedding is the nearest of all n.
    """
    tiles = ((images + 1) / 2).clamp(0, 1)
    codes = torch.cat([encoder(part).float() for part in tiles.split(16)])
    cosines = F.normalize(codes, dim=1) @ F.normalize(own.float().to(codes.device), dim=1).T
    hits = cosines.argmax(1) == torch.arange(len(cosines), device=cosines.device)
    return {
        "cosine": float(cosines.diagonal().mean()),
        "retrieved": float(hits.float().mean()),
    }


class Best:
    """Keeps `run/best/`: the averaged networks of the validation with the highest score.

    Args:
        run: folder of the run; the score of an earlier best is taken into account.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / "best"
        self.score = -math.inf
        note = self.folder / _NOTE
        if note.is_file():
            self.score = float(json.loads(note.read_text())[SCORE])

    def offer(self, step: int, figures: dict[str, float], save: Callable[[Path], None]) -> bool:
        """Save the networks if their score is higher than any before; return whether it is.

        Args:
            step: step of the run.
            figures: must have the key `score`; a NaN is never the best.
            save: writes the networks into a folder.

        Raises:
            TargetError: they can't be written.
        """
        score = figures[SCORE]
        if not score > self.score:
            return False
        with atomic_folder(self.folder) as fresh:
            save(fresh)
            (fresh / _NOTE).write_text(json.dumps({"step": step, **figures}, indent=1) + "\n")
        self.score = score
        _log.info(f"step {step}  best so far, {score:.4f}")
        return True
