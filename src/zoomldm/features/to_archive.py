"""Archives from features that other tools extracted: TRIDENT's, CLAM's and STAMP's h5 files.

An archive is a grid of tiles of 256 px at 0.5 mpp, so 128 micrometres. Features that are not
that, or don't say where they are, are refused with the reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomldm import __version__
from zoomldm.archive import ArchiveWriter
from zoomldm.archive.manifest import Encoder, Header, SlideFacts, TissueFacts
from zoomldm.archive.writer import Precision
from zoomldm.encoders import PatchEncoder, load_encoder
from zoomldm.errors import ArchiveError, ConfigError, TargetError
from zoomldm.features.files import SETTINGS
from zoomldm.features.reading import (
    StoredFeatures,
    number,
    read_stored,
    text,
    tile_side,
    two_axes,
)
from zoomldm.files import claim
from zoomldm.geometry.levels import BASE_MPP, TILE

TILE_UM = TILE * BASE_MPP
SPACING = 0.02  # of a tile's side that its scale may be off
MAX_SIDE = 1 << 31  # px, the most that an archive can say
OFF_GRID = 0.02  # of a tile's side that a corner may be off; coordinates are whole pixels


@dataclass(frozen=True)
class FeatureFile:
    """What an h5 file of tile features says.

    Attributes:
        layout: `TRIDENT`, `CLAM` or `STAMP`.
        values: (N, D) float32.
        tiles: (N, 2) row and column of each tile.
        size: (width, height) of the 0.5 mpp raster; where the slide's is not given, that of the
            tiles.
        native: (width, height) of the slide's finest level in px.
        mpp: micrometres per pixel of that level, across.
        mpp_y: the same, down.
        mpp_source: where it comes from.
        encoder: name of the patch encoder, `unknown` where it isn't given.
        digest: of its weights, None where it isn't given.
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


def archive_from_features(
    path: Path | str,
    out: Path | str,
    *,
    mpp: float | None = None,
    precision: Precision = "int8",
    encoder: str | PatchEncoder | None = None,
) -> dict[str, Any]:
    """Write an archive of the tile features of one h5 file.

    It has neither overview nor latents. Without `encoder`, and where the file isn't ours, its
    background is zeros, and it fits no pipeline with a patch encoder of its own.

    Args:
        path: TRIDENT's, CLAM's or STAMP's h5 file, or one of `zoomldm features --source tiles`.
        out: file ending in .zldm, or an existing folder.
        mpp: micrometres per pixel of the slide's finest level, over what the file says.
        precision: of the stored embeddings.
        encoder: the patch encoder that made the features: loaded, or what `load_encoder` takes.

    Returns:
        archive, source, layout, tissue_tiles, grid, dim, encoder, bytes.

    Raises:
        ConfigError: overlap, another spacing, tiles off the grid, missing geometry, NaN.
        TargetError: the target can't be written.
    """
    path, out = Path(path), Path(out)
    found = read_feature_file(path, mpp)
    source = load_encoder(encoder) if isinstance(encoder, str) else encoder
    target = out if out.suffix == ".zldm" else out / f"{slide_name(path)}.zldm"
    if target.parent == out and not out.is_dir():
        raise TargetError(f"{out}: no such folder; -o takes a .zldm file or an existing folder")
    made = _encoder(path, found, source)
    background = found.background
    if source is not None and found.digest != made.digest:
        white = np.full((1, TILE, TILE, 3), 255, np.uint8)
        background = source.encode_tiles(white)[0]
    if background is None:
        background = np.zeros(made.dim, np.float32)
    header = Header(
        slide=SlideFacts(
            name=slide_name(path),
            file_bytes=0,  # the slide itself isn't here
            native_size=found.native,
            size=found.size,
            mpp_x=found.mpp,
            mpp_y=found.mpp_y,
            mpp_source=found.mpp_source,
            vendor=found.layout,
            icc=None,
        ),
        tissue=TissueFacts(mode="features", threshold=0.0, view_mpp=BASE_MPP),
        encoder=made,
        autoencoder=None,
        pipeline=None,
        creator=f"zoomldm {__version__}",
    )
    with claim(target), ArchiveWriter(target, header, background, precision) as writer:
        try:
            writer.add_embeddings(found.tiles, found.values)
        except ArchiveError as error:
            raise ConfigError(f"{path}: {error}") from error
    return {
        "archive": str(target),
        "source": str(path),
        "layout": found.layout,
        "tissue_tiles": len(found.tiles),
        "grid": [-(-found.size[1] // TILE), -(-found.size[0] // TILE)],
        "dim": made.dim,
        "encoder": made.model_dump(),
        "bytes": target.stat().st_size,
    }


def slide_name(path: Path) -> str:
    """The slide's name in that of a file of features."""
    name = path.stem
    for ending in ("_patches", "_features"):
        name = name.removesuffix(ending)
    return name


def read_feature_file(path: Path, mpp: float | None = None) -> FeatureFile:
    """Read tile features with their places on the grid.

    `mpp` is that of the slide's finest level, over what the file says.

    Raises:
        ConfigError: unreadable, overlap, another spacing, tiles off the grid, missing geometry,
            two features of one tile, NaN.
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
    layout, side, scale, source, size = _geometry(path, stored, coords, mpp)
    aspect = (number(where.get("level0_mpp_y")) or 1) / (number(where.get("level0_mpp_x")) or 1)
    stretch = np.array([1, aspect])
    tiles = _tiles(path, coords * stretch, side)
    extent = (int(tiles[:, 1].max() + 1) * TILE, int(tiles[:, 0].max() + 1) * TILE)
    pixels = TILE / side  # of the 0.5 mpp raster, for one unit of the coordinates
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


Geometry = tuple[str, float, float, str, tuple[int, int] | None]
"""Layout; side of a tile in units of the coordinates; mpp of the slide's finest level and where
it comes from; width and height of the slide in those units, or None."""


def _geometry(
    path: Path, stored: StoredFeatures, coords: NDArray[np.float64], mpp: float | None
) -> Geometry:
    root, where = stored.root, stored.where
    if "unit" in root or "tile_size_um" in root or "stamp_version" in root:
        return _stamp(path, root, mpp)
    if "target_magnification" in where or "patch_size_level0" in where:
        return _trident(path, where, mpp)
    return _clam(path, stored, coords, mpp)


def _stamp(path: Path, root: Mapping[str, Any], mpp: float | None) -> Geometry:
    unit, side = text(root.get("unit")), number(root.get("tile_size_um"))
    pixels = number(root.get("tile_size_px"))
    if unit != "um" or side is None:
        raise ConfigError(
            f"{path}: STAMP's file says unit {unit!r} and tile_size_um {side}; expected 'um' and "
            "the tiles' side"
        )
    if abs(side / TILE_UM - 1) > SPACING or (pixels is not None and pixels != TILE):
        shown = "" if pixels is None else f" in {pixels:g} px"
        raise ConfigError(
            f"{path}: tiles of {side:g} um{shown}; expected {TILE_UM:g} um in {TILE} px"
        )
    return "STAMP", side, mpp or BASE_MPP, "option" if mpp else "features: micrometres", None


def _trident(path: Path, where: Mapping[str, Any], mpp: float | None) -> Geometry:
    _no_overlap(path, where)
    side, pixels = number(where.get("patch_size_level0")), number(where.get("patch_size"))
    target = number(where.get("target_magnification"))
    level0 = number(where.get("level0_magnification"))
    if side is None and None not in (pixels, target, level0):
        side = pixels * level0 / target  # type: ignore[operator]
    if not side:
        raise ConfigError(f"{path}: coords don't say patch_size_level0; tiles have no size")
    if pixels not in (None, TILE) or target not in (None, 20):
        at = "" if target is None else f" at {target:g}x"
        raise ConfigError(f"{path}: tiles of {pixels or 0:g} px{at}; expected {TILE} px at 20x")
    given = mpp or number(where.get("level0_mpp_x"))
    if given is None and target is None:
        raise ConfigError(
            f"{path}: says neither magnification nor mpp of its tiles; pass --mpp with the "
            "micrometres per pixel of the slide"
        )
    source = "option" if mpp else "features: level0_mpp_x"
    if given is None:
        given, source = TILE_UM / side, "features: 20x taken as 0.5 mpp"
    _spacing(path, side, given)
    if exact := number(where.get("level0_mpp_x")):
        side = TILE_UM / exact  # ours: the written side is rounded to whole pixels
    return "TRIDENT", side, given, source, _size(where, "level0_width", "level0_height")


def _clam(
    path: Path, stored: StoredFeatures, coords: NDArray[np.float64], mpp: float | None
) -> Geometry:
    where = stored.where
    _no_overlap(path, where)
    side = tile_side(stored, coords)
    if mpp is None:
        raise ConfigError(
            f"{path}: coords have no scale ({', '.join(where) or 'no attributes'}); pass --mpp "
            "with the micrometres per pixel of the slide"
        )
    if side is None:
        raise ConfigError(
            f"{path}: holds one tile, and coords don't say patch_size: how large it is can't be "
            "told; add the attribute patch_size (and downsample) to coords"
        )
    _spacing(path, side, mpp)
    size = None
    if int(number(where.get("patch_level")) or 0) == 0 and "level_dim" in where:
        wide, high = np.asarray(where["level_dim"]).ravel()[:2]
        size = int(wide), int(high)
    return "CLAM", side, mpp, "option", size


def _no_overlap(path: Path, where: Mapping[str, Any]) -> None:
    overlap = number(where.get("overlap")) or 0
    if overlap:
        raise ConfigError(
            f"{path}: tiles overlap by {overlap:g} px; an archive's lie edge to edge: extract "
            "features again without overlap"
        )


def _spacing(path: Path, side: float, mpp: float) -> None:
    if abs(side * mpp / TILE_UM - 1) > SPACING:
        raise ConfigError(
            f"{path}: tiles of {side:g} px at {mpp:g} mpp are {side * mpp:.1f} um wide; expected "
            f"{TILE_UM:g} um ({TILE} px at {BASE_MPP} mpp)"
        )


def _tiles(path: Path, coords: NDArray[np.float64], side: float) -> NDArray[np.int64]:
    """Row and column of each tile.

    Raises:
        ConfigError: off the grid from (0, 0), or two features of one tile.
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


def _size(where: Mapping[str, Any], width: str, height: str) -> tuple[int, int] | None:
    w, h = number(where.get(width)), number(where.get(height))
    return (int(w), int(h)) if w and h else None


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
    if given is None:
        return Encoder(id=found.encoder, digest=found.digest or "unknown", dim=dim)
    if given.embedding_dim != dim:
        raise ConfigError(
            f"{path}: features of {dim} numbers, but that patch encoder gives {given.embedding_dim}"
        )
    return Encoder(id=given.id, digest=given.digest, dim=dim)
