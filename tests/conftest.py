"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors: threads cost more than they bring

_SHARED = Path(os.environ.get("ZOOMLDM_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real slides and fixtures beside the checkout; skips where it is absent."""
    if not (_SHARED / "README.md").exists():
        pytest.skip(f"real slides not present at {_SHARED} (set ZOOMLDM_SHARED)")
    return _SHARED
