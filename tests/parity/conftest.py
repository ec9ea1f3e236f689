"""Tapes recorded from the released code at reduced size, and its weights drawn again."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.weights import whole_checkpoint
from torch import Tensor

from zoomldm.pipeline import ZoomLDMPipeline, load_pipeline
from zoomldm.released import ConvertOptions, convert_released

TAPES = Path(__file__).parents[1] / "data" / "tapes"  # the small ones; the others are in shared


@pytest.fixture(scope="session")
def tape(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        own = TAPES / f"{name}.pt"
        if not own.exists():
            own = request.getfixturevalue("shared") / "parity" / own.name
        return torch.load(own, weights_only=True)

    return cache(load)


@pytest.fixture(scope="session")
def checkpoint(tape: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the reduced weights.ckpt."""
    path = tmp_path_factory.mktemp("released") / "weights.ckpt"
    torch.save(whole_checkpoint(tape("ldm")), path)
    return path


@pytest.fixture(scope="session")
def pipeline(checkpoint: Path) -> ZoomLDMPipeline:
    """The reduced checkpoint, converted with averaged weights."""
    convert_released(checkpoint, checkpoint.parent / "ema")
    return load_pipeline(str(checkpoint.parent / "ema"))


@pytest.fixture(scope="session")
def raw_pipeline(checkpoint: Path) -> ZoomLDMPipeline:
    """The reduced checkpoint, converted with the last step's weights."""
    convert_released(checkpoint, checkpoint.parent / "raw", ConvertOptions("raw"))
    return load_pipeline(str(checkpoint.parent / "raw"))


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Largest difference over the largest recorded value, below a tolerance."""

    def check(ours: Tensor, recorded: Tensor, tolerance: float = 1e-5) -> None:
        assert ours.shape == recorded.shape
        difference = (ours.double() - recorded.double()).abs().max() / recorded.abs().max()
        assert difference < tolerance, f"off by {difference:.2g} of the largest value"

    return check
