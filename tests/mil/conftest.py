"""Small made-up slides, in which one instance in each positive slide tells."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def make_npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes an npz of `slides` bags; two slides a patient."""

    def make(
        name: str = "toy", slides: int = 40, dim: int = 6, seed: int = 0, **extra: object
    ) -> Path:
        draw = np.random.default_rng(seed)
        y = (np.arange(slides) // 2 % 2).astype(np.int8)
        sizes = draw.integers(1, 12, slides)
        bag = np.repeat(np.arange(slides), sizes)
        x = draw.normal(size=(len(bag), dim)).astype(np.float32)
        x[np.searchsorted(bag, np.nonzero(y)[0])] += 4
        arrays = {
            "X": x,
            "bag": bag,
            "y": y,
            "slide_id": np.array([f"slide-{i}" for i in range(slides)]),
            "case_id": np.array([f"case-{i // 2}" for i in range(slides)]),
        } | extra
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
        return path

    return make
