"""Make archives from features extracted by other tools: h5 files of TRIDENT, CLAM and STAMP.

An archive is a grid of tiles of 256 px at 0.5 mpp, that is, 128 micrometres. Features on another
grid or without coordinates are refused with the reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from zoomldm import __version__
from zoomldm.archive import ArchiveWriter
from zoomldm.archive.embeddings import Precision
from zoomldm.archive.manifest import Encoder, Header, SlideInfo, TissueInfo
from zoomldm.encoders import ENCODERS, PatchEncoder, known_as, load_encoder
from zoomldm.errors import ArchiveError, ConfigError, TargetError
from zoomldm.features.files import SETTINGS
from zoomldm.features.layouts import geometry_of
from zoomldm.features.reading import (
    number,
    read_stored,
    text,
    two_axes,
)
from zoomldm.files import claim
from zoomldm.geometry.levels import BASE_MPP, TILE
from zoomldm.verbs import Progress, Report, silent

AUTO = "auto"
MAX_SIDE = 1 << 31  # px, the largest side that an archive can record
OFF_GRID = 0.02  # tolerance of a corner, in tile sides: coordinates are rounded to whole pixels


@dataclass(frozen=True)
class FeatureFile:
    """Content of an h5 file of tile features.

    Attributes:
        layout: `TRIDENT`, `CLAM` or `STAMP`.
        values: (N, D) float32.
        tiles: (N, 2) row and column of each tile.
        size: (width, height) of the 0.5 mpp raster; the extent of the tiles if the slide's size
            is not given.
        native: (width, height) of the slide's finest level in px.
        mpp: micrometres per pixel of that level, horizontally.
        mpp_y: the same, vertically.
        mpp_source: source of the mpp.
        encoder: name of the patch encoder, `unknown` if not given.
        digest: digest of its weights, None if not given.
        background: (D,) embedding of the white tile, or None.
    """

    layout: str
    values: NDArray[np.float32]
    tiles: NDArray[np.int64]
    size: tuple[int, int]
    native: tuple[int, int]
    mpp: float
    mpp_y: float
    mpp_source: str
    encoder: str
    digest: str | None
    background: NDArray[np.float32] | None


@dataclass(frozen=True)
class ImportOptions:
    """How features are imported.

    Attributes:
        mpp: micrometres per pixel of the slide's finest level; overrides the file's value.
        precision: precision of the stored embeddings: `compact`, `int8` or `float16`.
    """

    mpp: float | None = None
    precision: Precision = "int8"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision {self.precision!r}; expected compact, int8 or float16")


@dataclass(frozen=True)
class ImportReport(Report):
    """Result of `archive_from_features`.

    Attributes:
        archive: its path.
        source: the feature file.
        layout: `TRIDENT`, `CLAM` or `STAMP`.
        tissue_tiles: tiles stored.
        grid: rows and columns.
        dim: embedding dimension.
        encoder: the patch encoder.
        bytes: size of the archive.
    """

    archive: str
    source: str
    layout: str
    tissue_tiles: int
    grid: tuple[int, int]
    dim: int
    encoder: Encoder
    bytes: int


def archive_from_features(
    path: Path | str,
    out: Path | str,
    options: ImportOptions | None = None,
    *,
    encoder: str | PatchEncoder | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Write an archive from the tile features in one h5 file.

    It has neither base layer nor latents. Without `encoder`, and unless this package wrote the
    file, its background is zeros and it fits no pipeline that has its own patch encoder. An
    encoder named in the file as TRIDENT or STAMP name it is recorded under its id in `ENCODERS`.

    Args:
        path: h5 file of TRIDENT, CLAM or STAMP, or one of `zoomldm features --source tiles`.
        out: file ending in .zldm, or an existing folder.
        options: see ImportOptions.
        encoder: patch encoder that made the features: a loaded one, a name for `load_encoder`, or
            `auto` for the encoder named in the file.
        progress: called before and after the one file.

    Raises:
        ConfigError: overlap, another spacing, tiles off the grid, missing geometry, NaN; an
            encoder other than the file names, or `auto` if the file names no known one.
        TargetError: the target can't be written.

    Examples:
        >>> import zoomldm
        >>> tiles = zoomldm.FeatureOptions(source="tiles")
        >>> features = zoomldm.extract_features("slide.zldm", "features", tiles).output
        >>> report = zoomldm.archive_from_features(features, "again.zldm")
        >>> report.layout, report.dim, zoomldm.verify(report.archive).sound
        ('TRIDENT', 32, True)
    """
    path, out = Path(path), Path(out)
    options, progress = options or ImportOptions(), progress or silent
    progress("features", 0, 1)
    found = read_feature_file(path, options.mpp)
    if encoder == AUTO:
        encoder = encoder_of(path)
    source = load_encoder(encoder) if isinstance(encoder, str) else encoder
    target = out if out.suffix == ".zldm" else out / f"{slide_name(path)}.zldm"
    if target.parent == out and not out.is_dir():
        raise TargetError(f"{out}: no such folder; -o takes a .zldm file or an existing folder")
    encoder_info = _encoder(path, found, source)
    background = found.background
    if source is not None and found.digest != encoder_info.digest:
        white = np.full((1, TILE, TILE, 3), 255, np.uint8)
        background = source.encode_tiles(white)[0]
    if background is None:
        background = np.zeros(encoder_info.dim, np.float32)
    header = Header(
        slide=SlideInfo(
            name=slide_name(path),
            file_bytes=0,  # the slide itself is not available
            native_size=found.native,
            size=found.size,
            mpp_x=found.mpp,
            mpp_y=found.mpp_y,
            mpp_source=found.mpp_source,
            vendor=found.layout,
            icc=None,
        ),
        tissue=TissueInfo(mode="features", threshold=0.0, view_mpp=BASE_MPP),
        encoder=encoder_info,
        autoencoder=None,
        pipeline=None,
        creator=f"zoomldm {__version__}",
    )
    with claim(target), ArchiveWriter(target, header, background, options.precision) as writer:
        try:
            writer.add_embeddings(found.tiles, found.values)
        except ArchiveError as error:
            raise ConfigError(f"{path}: {error}") from error
    progress("features", 1, 1)
    return ImportReport(
        archive=str(target),
        source=str(path),
        layout=found.layout,
        tissue_tiles=len(found.tiles),
        grid=(-(-found.size[1] // TILE), -(-found.size[0] // TILE)),
        dim=encoder_info.dim,
        encoder=encoder_info,
        bytes=target.stat().st_size,
    )


def slide_name(path: Path) -> str:
    """Derive the slide's name from the name of a feature file."""
    name = path.stem
    for ending in ("_patches", "_features"):
        name = name.removesuffix(ending)
    return name


def encoder_of(path: Path) -> str | None:
    """Return the id of the patch encoder named in a feature file.

    None for a file of this package, which records the encoder itself.

    Raises:
        ConfigError: the file names no encoder, an unknown one, or one of another dimension.
    """
    stored = read_stored(path)
    name, digest = _named_encoder(path, stored.root, stored.own)
    if digest is not None:
        return None
    known = _known(name, stored.values.shape[-1])
    if known is None:
        raise ConfigError(
            f"{path}: names the patch encoder {name!r}, with {stored.values.shape[-1]} numbers a "
            f"tile, which is none of {', '.join(ENCODERS)}; leave --encoder auto out, or say "
            "which one it is"
        )
    return known


def _known(name: str, dim: int) -> str | None:
    """Return the id of the named encoder, if its embedding dimension is `dim`."""
    known = known_as(name)
    return known if known is not None and ENCODERS[known].dim == dim else None


def read_feature_file(path: Path, mpp: float | None = None) -> FeatureFile:
    """Read tile features with their places on the grid.

    `mpp` is that of the slide's finest level and overrides the file's value.

    Raises:
        ConfigError: unreadable, overlap, another spacing, tiles off the grid, missing geometry,
            two features for one tile, NaN.
    """
    if mpp is not None and not 0.01 <= mpp <= 10:
        raise ConfigError(f"mpp is {mpp}; expected micrometres per pixel, 0.01 to 10")
    stored = read_stored(path)
    root, where = stored.root, stored.where
    if stored.coords is None:
        raise ConfigError(f"{path}: has no dataset 'coords', so tiles have no place")
    values = two_axes(path, stored.values, "features")
    coords = two_axes(path, stored.coords, "coords")
    if len(values) != len(coords) or not len(values):
        raise ConfigError(f"{path}: {len(values)} features and {len(coords)} coordinates")
    for what, array in (("features", values), ("coordinates", coords)):
        bad = int((~np.isfinite(array)).any(1).sum())
        if bad:
            raise ConfigError(f"{path}: {bad} of {len(values)} {what} hold NaN or infinity")
    encoder, digest = _named_encoder(path, root, stored.own)
    layout, side, scale, source, size = geometry_of(path, stored, coords, mpp)
    aspect = (number(where.get("level0_mpp_y")) or 1) / (number(where.get("level0_mpp_x")) or 1)
    stretch = np.array([1, aspect])
    tiles = _tiles(path, coords * stretch, side)
    extent = (int(tiles[:, 1].max() + 1) * TILE, int(tiles[:, 0].max() + 1) * TILE)
    pixels = TILE / side  # px of the 0.5 mpp raster per unit of the coordinates
    raster = (
        extent
        if size is None
        else np.maximum(1, np.rint(np.array(size) * stretch * pixels)).astype(int)
    )
    if raster[0] <= extent[0] - TILE or raster[1] <= extent[1] - TILE:
        raise ConfigError(
            f"{path}: tiles reach {extent[0]} x {extent[1]} px at 0.5 mpp, beyond the slide's "
            f"{raster[0]} x {raster[1]}; its size or its tiles are wrong"
        )
    width, height = int(raster[0]), int(raster[1])
    native = size or (round(width * BASE_MPP / scale), round(height * BASE_MPP / scale / aspect))
    if min(native) < 1 or max(*native, *extent) > MAX_SIDE:
        raise ConfigError(
            f"{path}: tiles reach {extent[0]:,} x {extent[1]:,} px at 0.5 mpp and the slide has "
            f"{native[0]:,} x {native[1]:,}; expected 1 to {MAX_SIDE:,}: its size is wrong, or "
            "the unit of its coordinates"
        )
    return FeatureFile(
        layout=layout,
        values=values.astype(np.float32),
        tiles=tiles,
        size=(width, height),
        native=native,
        mpp=scale,
        mpp_y=scale * aspect,
        mpp_source=source,
        encoder=encoder,
        digest=digest,
        background=stored.background,
    )


def _tiles(path: Path, coords: NDArray[np.float64], side: float) -> NDArray[np.int64]:
    """Compute row and column of each tile.

    Raises:
        ConfigError: tiles off the grid from (0, 0), or two features for one tile.
    """
    cells = np.rint(coords / side)
    off = np.abs(coords - cells * side).max(1)
    worst = int(off.argmax())
    if off[worst] > max(OFF_GRID * side, 1.0) or cells.min() < 0:
        x, y = coords[worst]
        raise ConfigError(
            f"{path}: the tile at x {x:g}, y {y:g} is {off[worst]:.0f} off the grid of tiles "
            f"{side:g} wide from (0, 0); tiles overlap, or were laid per contour: extract "
            "features on one grid"
        )
    tiles = cells[:, ::-1].astype(np.int64)
    different, counts = np.unique(tiles, axis=0, return_counts=True)
    if len(different) < len(tiles):
        row, col = different[counts.argmax()]
        raise ConfigError(
            f"{path}: {counts.max()} features of one tile (row {row}, column {col}); tiles "
            "overlap, or the spacing is wrong"
        )
    return tiles


def _named_encoder(
    path: Path, root: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[str, str | None]:
    if SETTINGS in root:
        settings = json.loads(text(root[SETTINGS]))
        if settings.get("turn"):
            raise ConfigError(
                f"{path}: features of a slide mirrored or turned (turn {settings['turn']}); take "
                "those of the slide as it is"
            )
        if settings.get("source") != "tiles":
            raise ConfigError(
                f"{path}: features of the {settings.get('source')}, but an archive holds those of "
                "tiles: zoomldm features --source tiles"
            )
        return settings["patch_encoder"]["id"], settings["patch_encoder"]["digest"]
    name = own.get("encoder", root.get("extractor"))
    return (text(name) if name is not None else "unknown"), None


def _encoder(path: Path, found: FeatureFile, given: PatchEncoder | None) -> Encoder:
    dim = found.values.shape[1]
    known = _known(found.encoder, dim) if found.digest is None else None
    if given is None:
        return Encoder(id=known or found.encoder, digest=found.digest or "unknown", dim=dim)
    if known is not None and given.id in ENCODERS and given.id != known:
        raise ConfigError(
            f"{path}: says that {found.encoder} made its features, not {given.id}; give --encoder "
            f"{known}, or none"
        )
    if given.embedding_dim != dim:
        raise ConfigError(
            f"{path}: features of {dim} numbers, but that patch encoder gives {given.embedding_dim}"
        )
    return Encoder(id=given.id, digest=given.digest, dim=dim)
