"""Compact features of a slide: `zoomldm features` for one archive."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from zoomldm.archive import Archive, open_archive
from zoomldm.errors import ArchiveError, ConfigError, TargetError
from zoomldm.features.files import (
    FORMATS,
    PRECISIONS,
    Format,
    Precision,
    read_settings,
    stored_bytes,
    write_features,
)
from zoomldm.features.sources import (
    Features,
    denoiser_features,
    summarizer_features,
    tile_features,
)
from zoomldm.geometry.levels import COARSEST, NAMES, parse_level
from zoomldm.pipeline import ZoomLDMPipeline, load_pipeline
from zoomldm.remote import as_path
from zoomldm.verbs import Progress, Report, silent

Kind = Literal["summarizer", "tiles", "unet"]
PAPER_RATIO = 8000 * 384 / (128 * 512)  # from numbers in the paper's supplement, which states 45


@dataclass(frozen=True)
class FeatureOptions:
    """Which features to extract, and how to write them.

    Attributes:
        source: `summarizer` (8 x 8 tokens per patch), `tiles` (the stored embeddings) or `unet`
            (a layer of the denoiser, one vector per patch).
        level: label of the patches' level; None for 0.15625x, or 20x with `tiles`.
        format: `h5`, `pt` or `npy`.
        fixed: use the two patches with the highest tissue fraction, padded with zeros, and a mask.
        precision: `float32`, `float16`, or `int8` with a scale per feature (h5 only).
        layer: layer of the denoiser: `mid`, `down.<i>` or `up.<i>`.
        timestep: timestep at which the denoiser is evaluated.

    Raises:
        ConfigError: values that don't exist or can't be combined.
    """

    source: Kind = "summarizer"
    level: str | None = None
    format: Format = "h5"
    fixed: bool = False
    precision: Precision = "float32"
    layer: str = "mid"
    timestep: int = 50

    def __post_init__(self) -> None:
        for name, allowed in (
            ("source", get_args(Kind)),
            ("format", FORMATS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} {getattr(self, name)!r}; expected {', '.join(allowed[:-1])} "
                    f"or {allowed[-1]}"
                )
        level = self.level_index
        if self.precision == "int8" and self.format != "h5":
            raise ConfigError(
                f"precision int8 needs a scale per feature, which {self.format} has no room for; "
                "pass --format h5, or float16"
            )
        if self.source == "tiles" and (self.fixed or level != 0):
            raise ConfigError(
                "tiles are one feature each at 20x; --level and --fixed go with patches: "
                "pass --source summarizer or unet"
            )

    @property
    def level_index(self) -> int:
        """The level, 0 to 7."""
        if self.level is None:
            return 0 if self.source == "tiles" else COARSEST
        return parse_level(self.level)


@dataclass(frozen=True)
class FeatureReport(Report):
    """What was written for one archive.

    Attributes:
        archive: its path.
        output: the feature file.
        source: see FeatureOptions.
        level: level label.
        patches: patches of the level that hold tissue.
        features: vectors written.
        dim: dimension of each vector.
        values: features x dim.
        bytes: size of the values in float32, float16 and int8.
        file_bytes: size of the output.
        tile_values: total length of the embeddings of all tissue tiles.
        ratio: tile_values / values.
        origin: what the denoiser's features were made from, `latents` or `overview`.
        seconds: time taken.
        done_before: whether the file already existed, made from the same inputs.
    """

    archive: str
    output: str
    source: str
    level: str
    patches: int
    features: int
    dim: int
    values: int
    bytes: dict[str, int]
    file_bytes: int
    tile_values: int
    ratio: float
    origin: str | None
    seconds: float
    done_before: bool = False


def extract_features(
    archive: Path | str,
    out: Path | str,
    options: FeatureOptions | None = None,
    *,
    pipeline: str | ZoomLDMPipeline = "demo",
    progress: Progress | None = None,
) -> FeatureReport:
    """Extract features from one archive and write them to `out`/<archive's name>.<format>.

    An h5 file made from the same archive, pipeline and options is left as it is.

    Args:
        archive: a .zldm file, or its URL.
        out: an existing folder.
        options: see FeatureOptions.
        pipeline: the pipeline, its id or its directory; not used for `tiles`.
        progress: called as patches are done.

    Raises:
        ArchiveError: not an archive, no tissue, or made with another patch encoder.
        ConfigError: a layer or timestep that the denoiser does not have.
        TargetError: the target can't be written.

    Examples:
        >>> import zoomldm
        >>> options = zoomldm.FeatureOptions(fixed=True, format="npy")
        >>> report = zoomldm.extract_features(
        ...     "slide.zldm", "features", options, pipeline="pipeline"
        ... )
        >>> report.level, report.features, report.origin
        ('0.15625x', 128, None)
    """
    options, start = options or FeatureOptions(), time.monotonic()
    path, out = as_path(archive), Path(out)
    if not out.is_dir():
        raise TargetError(f"{out}: no such folder; -o takes an existing one")
    target = out / f"{path.stem}.{options.format}"
    model = None
    if options.source != "tiles":
        model = load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    with open_archive(path) as opened:
        if not opened.manifest.tissue_tiles:
            raise ArchiveError(f"{path}: holds no tissue tile; nothing to describe")
        settings = _settings(opened, model, options)
        stored = read_settings(target) if target.is_file() else None
        if stored is not None and _without_metadata(stored) == settings:
            return _report(opened, target, options, stored["facts"], start, done_before=True)
        found = _describe(opened, model, options, progress or silent)
        metadata = {
            "patches": found.patches,
            "features": len(found.values),
            "dim": int(found.values.shape[1]),
            "origin": found.origin,
        }
        everything = {**settings, "facts": metadata}
        write_features(target, found, opened, options.format, options.precision, everything)
        return _report(opened, target, options, metadata, start)


def _settings(
    archive: Archive, model: ZoomLDMPipeline | None, options: FeatureOptions
) -> dict[str, Any]:
    encoder = archive.manifest.encoder
    named = {
        "tiles": encoder.id,
        "summarizer": "zoomldm summarizer",
        "unet": f"zoomldm unet {options.layer}, t = {options.timestep}",
    }
    settings: dict[str, Any] = {
        "source": options.source,
        "level": NAMES[options.level_index],
        "level_index": options.level_index,
        "fixed": options.fixed,
        "precision": options.precision,
        "encoder": named[options.source],
        "patch_encoder": encoder.model_dump(),
        "archive": archive.digest,
    }
    if archive.turn:
        settings["turn"] = archive.turn
    if model is not None:
        parts = {"summarizer": ("summarizer",), "unet": ("summarizer", "unet", "vae", "scheduler")}
        settings["pipeline"] = model.digest(*parts[options.source])
    return settings


def _without_metadata(stored: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in stored.items() if k != "facts"}


def _describe(
    archive: Archive,
    model: ZoomLDMPipeline | None,
    options: FeatureOptions,
    progress: Progress,
) -> Features:
    if model is None:
        return tile_features(archive)
    level, fixed = options.level_index, options.fixed
    if options.source == "summarizer":
        return summarizer_features(archive, model, level, fixed, progress)
    layer, timestep = options.layer, options.timestep
    return denoiser_features(archive, model, level, layer, timestep, fixed, progress)


def _report(
    archive: Archive,
    target: Path,
    options: FeatureOptions,
    metadata: dict[str, Any],
    start: float,
    done_before: bool = False,
) -> FeatureReport:
    count, dim = metadata["features"], metadata["dim"]
    tile_values = archive.manifest.tissue_tiles * archive.dim
    return FeatureReport(
        archive=str(archive.path),
        output=str(target),
        source=options.source,
        level=NAMES[options.level_index],
        patches=metadata["patches"],
        features=count,
        dim=dim,
        values=count * dim,
        bytes={p: stored_bytes(count, dim, p) for p in PRECISIONS},
        file_bytes=target.stat().st_size,
        tile_values=tile_values,
        ratio=tile_values / (count * dim),
        origin=metadata["origin"],
        seconds=time.monotonic() - start,
        done_before=done_before,
    )
