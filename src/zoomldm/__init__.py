"""ZoomLDM: whole-slide images kept as embeddings and turned back into pictures.

`compress`, `decompress`, `extract_features`, `open_archive`, `open_slide`, `load_pipeline` and
`sample` are loaded when used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a checker and an editor see; at run time `__getattr__` imports
    from zoomldm.archive import open_archive as open_archive
    from zoomldm.archive import verify_archive as verify_archive
    from zoomldm.compression.compress import CompressOptions as CompressOptions
    from zoomldm.compression.compress import compress as compress
    from zoomldm.editing.edit import EditOptions as EditOptions
    from zoomldm.editing.edit import edit as edit
    from zoomldm.features.extract import FeatureOptions as FeatureOptions
    from zoomldm.features.extract import extract_features as extract_features
    from zoomldm.features.to_archive import archive_from_features as archive_from_features
    from zoomldm.pipeline import ZoomLDMPipeline as ZoomLDMPipeline
    from zoomldm.pipeline import load_pipeline as load_pipeline
    from zoomldm.released import convert_released as convert_released
    from zoomldm.rendering import DecompressOptions as DecompressOptions
    from zoomldm.rendering import RenderedSlide as RenderedSlide
    from zoomldm.rendering import decompress as decompress
    from zoomldm.rendering import open_slide as open_slide
    from zoomldm.sampling.draw import sample as sample

try:
    __version__ = version("zoomldm")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0"

_HOMES = {
    "compress": "zoomldm.compression.compress",
    "CompressOptions": "zoomldm.compression.compress",
    "decompress": "zoomldm.rendering",
    "DecompressOptions": "zoomldm.rendering",
    "edit": "zoomldm.editing.edit",
    "EditOptions": "zoomldm.editing.edit",
    "extract_features": "zoomldm.features.extract",
    "FeatureOptions": "zoomldm.features.extract",
    "archive_from_features": "zoomldm.features.to_archive",
    "open_archive": "zoomldm.archive",
    "verify_archive": "zoomldm.archive",
    "open_slide": "zoomldm.rendering",
    "RenderedSlide": "zoomldm.rendering",
    "load_pipeline": "zoomldm.pipeline",
    "sample": "zoomldm.sampling.draw",
    "convert_released": "zoomldm.released",
    "ZoomLDMPipeline": "zoomldm.pipeline",
}
__all__ = [
    "CompressOptions",
    "DecompressOptions",
    "EditOptions",
    "FeatureOptions",
    "RenderedSlide",
    "ZoomLDMPipeline",
    "__version__",
    "archive_from_features",
    "compress",
    "convert_released",
    "decompress",
    "edit",
    "extract_features",
    "load_pipeline",
    "open_archive",
    "open_slide",
    "sample",
    "verify_archive",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zoomldm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
