"""Versions and devices of this machine, and a self-test of the shipped pipeline."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

_CORE = (
    "zoomldm",
    "torch",
    "diffusers",
    "safetensors",
    "accelerate",
    "numpy",
    "pillow",
    "tifffile",
    "imagecodecs",
    "zarr",
    "openslide-python",
    "openslide-bin",
)
_OPTIONAL = {  # distribution: module and extra
    "transformers": ("transformers", "encoders"),
    "scikit-learn": ("sklearn", "mil"),
    "scipy": ("scipy", "mil"),
    "matplotlib": ("matplotlib", "mil"),
}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def diagnose(device: str = "cpu") -> dict[str, Any]:
    """Collect versions, devices, optional dependencies and a self-test, as plain values."""
    import torch

    devices = {
        "cpu": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    }
    for i in range(torch.cuda.device_count()):
        devices[f"cuda:{i}"] = torch.cuda.get_device_name(i)
    return {
        "versions": {"python": platform.python_version(), **{n: _version(n) for n in _CORE}},
        "devices": devices,
        "optional": {
            name: _version(name)
            if find_spec(module)
            else f"not installed; pip install 'zoomldm[{extra}]'"
            for name, (module, extra) in _OPTIONAL.items()
        },
        "self_test": self_test(device),
    }


def self_test(device: str = "cpu") -> dict[str, Any]:
    """Encode a white tile, generate one 20x patch from it, and check that the patch is light.

    Args:
        device: cpu, cuda, ..., or auto.

    Returns:
        `passed`, and the measurements or a one-line error.
    """
    import numpy as np
    import torch

    from zoomldm.errors import ZoomLDMError
    from zoomldm.pipeline import SHIPPED, load_pipeline

    start = time.monotonic()
    try:
        pipeline = load_pipeline(SHIPPED, device)
    except ZoomLDMError as error:
        return {"passed": False, "error": str(error)}
    white = np.full((1, 256, 256, 3), 255, np.uint8)
    embedding = pipeline.encode_tiles(white)
    image = pipeline(
        embedding[:, None, None],
        0,
        10,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images  # pyright: ignore[reportAttributeAccessIssue]
    mean = float(image.mean())
    return {
        "passed": bool(np.isfinite(embedding).all() and mean > 0.7),
        "pipeline": "demo",
        "device": str(pipeline.device),
        "digest": pipeline.digest(),
        "mean of a generated blank tile (1 is white)": round(mean, 3),
        "seconds": round(time.monotonic() - start, 1),
    }
