"""ZoomLDM: whole-slide images kept as embeddings and turned back into pictures.

`compress`, `decompress`, `extract_features`, `open_archive`, `open_slide`, `load_pipeline` and
`sample` are loaded when used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("zoomldm")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0"

_HOMES = {
    "compress": "zoomldm.compression.compress",
    "CompressOptions": "zoomldm.compression.compress",
    "decompress": "zoomldm.rendering",
    "extract_features": "zoomldm.features.extract",
    "FeatureOptions": "zoomldm.features.extract",
    "archive_from_features": "zoomldm.features.to_archive",
    "open_archive": "zoomldm.archive",
    "verify_archive": "zoomldm.archive",
    "open_slide": "zoomldm.slides",
    "load_pipeline": "zoomldm.pipeline",
    "sample": "zoomldm.sampling.draw",
    "convert_released": "zoomldm.released",
    "ZoomLDMPipeline": "zoomldm.pipeline",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zoomldm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
