"""Tapes recorded from the released code at reduced size, and its weights drawn again."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from zoomldm.pipeline import ZoomLDMPipeline, load_pipeline
from zoomldm.released import convert_released


@pytest.fixture(scope="session")
def rebuilding(shared: Path) -> ModuleType:
    path = shared / "parity" / "rebuild.py"
    spec = importlib.util.spec_from_file_location("rebuild", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tape(shared: Path) -> Callable[[str], Any]:
    return cache(lambda name: torch.load(shared / "parity" / f"{name}.pt", weights_only=True))


@pytest.fixture(scope="session")
def checkpoint(rebuilding: ModuleType, tape: Callable, tmp_path_factory: pytest.TempPathFactory):
    """Path of the reduced weights.ckpt."""
    path = tmp_path_factory.mktemp("released") / "weights.ckpt"
    torch.save(rebuilding.rebuild_checkpoint(tape("ldm")), path)
    return path


@pytest.fixture(scope="session")
def pipeline(checkpoint: Path) -> ZoomLDMPipeline:
    """The reduced checkpoint, converted with averaged weights."""
    convert_released(checkpoint, checkpoint.parent / "ema")
    return load_pipeline(str(checkpoint.parent / "ema"))


@pytest.fixture(scope="session")
def raw_pipeline(checkpoint: Path) -> ZoomLDMPipeline:
    """The reduced checkpoint, converted with the last step's weights."""
    convert_released(checkpoint, checkpoint.parent / "raw", "raw")
    return load_pipeline(str(checkpoint.parent / "raw"))


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Largest difference over the largest recorded value, below a tolerance."""

    def check(ours: Tensor, recorded: Tensor, tolerance: float = 1e-5) -> None:
        assert ours.shape == recorded.shape
        difference = (ours.double() - recorded.double()).abs().max() / recorded.abs().max()
        assert difference < tolerance, f"off by {difference:.2g} of the largest value"

    return check
