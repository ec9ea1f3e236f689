"""ZoomLDM: whole-slide images stored as embeddings and turned back into images.

Each name in `__all__` is imported when it is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` imports
    from zoomldm.archive import open_archive as open_archive
    from zoomldm.archive import verify_archive as verify_archive
    from zoomldm.archive.verify import VerifyReport as VerifyReport
    from zoomldm.archive.verify import verify as verify
    from zoomldm.compression.compress import CompressOptions as CompressOptions
    from zoomldm.compression.compress import CompressReport as CompressReport
    from zoomldm.compression.compress import compress as compress
    from zoomldm.editing.edit import EditOptions as EditOptions
    from zoomldm.editing.edit import EditReport as EditReport
    from zoomldm.editing.edit import edit as edit
    from zoomldm.features.extract import FeatureOptions as FeatureOptions
    from zoomldm.features.extract import FeatureReport as FeatureReport
    from zoomldm.features.extract import extract_features as extract_features
    from zoomldm.features.to_archive import ImportOptions as ImportOptions
    from zoomldm.features.to_archive import ImportReport as ImportReport
    from zoomldm.features.to_archive import archive_from_features as archive_from_features
    from zoomldm.mil.results import MilReport as MilReport
    from zoomldm.mil.run import MilOptions as MilOptions
    from zoomldm.mil.run import run_mil as run_mil
    from zoomldm.pipeline import ZoomLDMPipeline as ZoomLDMPipeline
    from zoomldm.pipeline import load_pipeline as load_pipeline
    from zoomldm.released import ConvertOptions as ConvertOptions
    from zoomldm.released import ConvertReport as ConvertReport
    from zoomldm.released import convert_released as convert_released
    from zoomldm.rendering import DecompressOptions as DecompressOptions
    from zoomldm.rendering import RenderedSlide as RenderedSlide
    from zoomldm.rendering import decompress as decompress
    from zoomldm.rendering import open_slide as open_slide
    from zoomldm.rendering.exports import DecompressReport as DecompressReport
    from zoomldm.sampling.draw import sample as sample
    from zoomldm.sampling.exports import SampleReport as SampleReport
    from zoomldm.sampling.exports import SheetOptions as SheetOptions
    from zoomldm.sampling.exports import write_samples as write_samples
    from zoomldm.sampling.imaginary import SlideOptions as SlideOptions
    from zoomldm.sampling.imaginary import SlideReport as SlideReport
    from zoomldm.sampling.imaginary import sample_slide as sample_slide
    from zoomldm.sampling.large import LargeOptions as LargeOptions
    from zoomldm.sampling.large import LargeReport as LargeReport
    from zoomldm.sampling.large import large as large
    from zoomldm.sampling.options import SampleOptions as SampleOptions
    from zoomldm.sampling.upscale import UpscaleOptions as UpscaleOptions
    from zoomldm.sampling.upscale import UpscaleReport as UpscaleReport
    from zoomldm.sampling.upscale import upscale as upscale
    from zoomldm.verbs import Progress as Progress
    from zoomldm.verbs import Report as Report

try:
    __version__ = version("zoomldm")
except PackageNotFoundError:  # running from a checkout that is not installed
    __version__ = "0"

_HOMES = {
    "open_archive": "zoomldm.archive",
    "verify_archive": "zoomldm.archive",
    "VerifyReport": "zoomldm.archive.verify",
    "verify": "zoomldm.archive.verify",
    "CompressOptions": "zoomldm.compression.compress",
    "CompressReport": "zoomldm.compression.compress",
    "compress": "zoomldm.compression.compress",
    "EditOptions": "zoomldm.editing.edit",
    "edit": "zoomldm.editing.edit",
    "FeatureOptions": "zoomldm.features.extract",
    "FeatureReport": "zoomldm.features.extract",
    "extract_features": "zoomldm.features.extract",
    "ImportOptions": "zoomldm.features.to_archive",
    "ImportReport": "zoomldm.features.to_archive",
    "archive_from_features": "zoomldm.features.to_archive",
    "MilReport": "zoomldm.mil.results",
    "MilOptions": "zoomldm.mil.run",
    "run_mil": "zoomldm.mil.run",
    "ZoomLDMPipeline": "zoomldm.pipeline",
    "load_pipeline": "zoomldm.pipeline",
    "ConvertOptions": "zoomldm.released",
    "ConvertReport": "zoomldm.released",
    "convert_released": "zoomldm.released",
    "DecompressOptions": "zoomldm.rendering",
    "RenderedSlide": "zoomldm.rendering",
    "decompress": "zoomldm.rendering",
    "open_slide": "zoomldm.rendering",
    "DecompressReport": "zoomldm.rendering.exports",
    "sample": "zoomldm.sampling.draw",
    "SampleReport": "zoomldm.sampling.exports",
    "SheetOptions": "zoomldm.sampling.exports",
    "write_samples": "zoomldm.sampling.exports",
    "SampleOptions": "zoomldm.sampling.options",
    "SlideOptions": "zoomldm.sampling.imaginary",
    "SlideReport": "zoomldm.sampling.imaginary",
    "sample_slide": "zoomldm.sampling.imaginary",
    "LargeOptions": "zoomldm.sampling.large",
    "LargeReport": "zoomldm.sampling.large",
    "large": "zoomldm.sampling.large",
    "UpscaleOptions": "zoomldm.sampling.upscale",
    "UpscaleReport": "zoomldm.sampling.upscale",
    "upscale": "zoomldm.sampling.upscale",
    "EditReport": "zoomldm.editing.edit",
    "Progress": "zoomldm.verbs",
    "Report": "zoomldm.verbs",
}
__all__ = [
    "CompressOptions",
    "CompressReport",
    "ConvertOptions",
    "ConvertReport",
    "DecompressOptions",
    "DecompressReport",
    "EditOptions",
    "EditReport",
    "FeatureOptions",
    "FeatureReport",
    "ImportOptions",
    "ImportReport",
    "LargeOptions",
    "LargeReport",
    "MilOptions",
    "MilReport",
    "Progress",
    "RenderedSlide",
    "Report",
    "SampleOptions",
    "SampleReport",
    "SheetOptions",
    "SlideOptions",
    "SlideReport",
    "UpscaleOptions",
    "UpscaleReport",
    "VerifyReport",
    "ZoomLDMPipeline",
    "__version__",
    "archive_from_features",
    "compress",
    "convert_released",
    "decompress",
    "edit",
    "extract_features",
    "large",
    "load_pipeline",
    "open_archive",
    "open_slide",
    "run_mil",
    "sample",
    "sample_slide",
    "upscale",
    "verify",
    "verify_archive",
    "write_samples",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zoomldm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
