"""Compare images with the tissue that they should show, by all measures, with intervals."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import ConfigError
from zoomldm.evaluation.distances import (
    Interval,
    cluster_weights,
    frechet_draws,
    mean_draws,
    paired_draws,
    scaled,
)
from zoomldm.evaluation.fidelity import (
    Pixels,
    coarse_correlations,
    consistency,
    holes,
    pooled_seams,
    psnr,
    seams,
    sharpness,
    ssim,
)
from zoomldm.evaluation.judge import Describe, nearest_is_source
from zoomldm.evaluation.nuclei import (
    Nuclei,
    compare_nuclei,
    correlation,
    count_matches,
    find_nuclei,
)
from zoomldm.evaluation.public_features import Looks, PublicFeatures, perceptual_distance
from zoomldm.evaluation.readers import Reads
from zoomldm.geometry.levels import TILE, level_mpp

NUCLEI_TO = 1  # the coarsest level at which nuclei are looked for
CLUSTER = 2048  # px of the 0.5 mpp raster: patches in a square of this side are resampled together
REGION = 1024  # px
FLOOR = 0.05  # see `nearest_is_source`
_COLOURED = 20  # a px with a larger span over R, G and B is stained
_DRAWS, _FRECHET_DRAWS = 1000, 40


@dataclass(frozen=True)
class Judges:
    """Evaluation feature extractors (judges), for retrieval and distances.

    Attributes:
        public: features that were used in no training.
        own: the project's judge, or None.
    """

    public: PublicFeatures
    own: Describe | None = None


class Tissue:
    """Real patches of one slide at one level, with their nuclei and features.

    Args:
        level: 0 to 7.
        places: (n, 2) x and y of the patches' corners in px of the level.
        pixels: (n, 256, 256, 3) uint8, the real pixels.
        judges: evaluation feature extractors.
    """

    def __init__(self, level: int, places: NDArray, pixels: Pixels, judges: Judges) -> None:
        if len(pixels) < 2:
            raise ConfigError(f"{len(pixels)} patches to compare; expected at least 2")
        self.level, self.places, self.pixels, self.judges = level, places, pixels, judges
        squares = (places << level) // CLUSTER
        self.clusters = np.unique(squares, axis=0, return_inverse=True)[1].ravel()

    @cached_property
    def nuclei(self) -> list[Nuclei]:
        """Nuclei of each patch."""
        return [find_nuclei(p, level_mpp(self.level)) for p in self.pixels]

    @cached_property
    def looks(self) -> Looks:
        """Public features and feature maps."""
        return self.judges.public.look(self.pixels)

    @cached_property
    def described(self) -> NDArray:
        """Descriptions by the project's judge."""
        assert self.judges.own is not None
        return self.judges.own(self.pixels)

    def read(self, source: Reads) -> Pixels:
        """Read the same patches from another reader."""
        return np.stack(
            [source.read(self.level, x, y, TILE, TILE) for x, y in self.places.tolist()]
        )

    def measure(self, images: Pixels) -> dict[str, dict[str, float]]:
        """Compute all measures of images (n, 256, 256, 3) of the same places, with intervals.

        Returns:
            By name `value`, `low` and `high` (95 %, places resampled in squares of 2,048 px at
            20x): `psnr` (dB), `ssim`, `detail` (mean absolute Laplacian relative to the real
            one), `perceptual`, `frechet`, `kernel`, `retrieval` (public features; a fraction of
            1), `retrieval_floored` (no feature scaled by less than a twentieth of the usual std),
            `retrieval_own` (the project's judge, if given), and at 20x and 10x `f1`,
            `precision`, `recall`, `density_correlation`, `f1_by_chance`, `area_distance`,
            `intensity_distance`.
        """
        weights = cluster_weights(self.clusters, _DRAWS)
        looks = self.judges.public.look(images)
        own = np.arange(len(images))
        real, other = scaled(self.looks.features, looks.features)
        found = {
            "psnr": mean_draws(psnr(self.pixels, images), weights),
            "ssim": mean_draws(ssim(self.pixels, images), weights),
            "detail": _ratio([sharpness(p[None]) for p in images], self._sharpness, weights),
            "perceptual": mean_draws(perceptual_distance(self.looks, looks), weights),
            "frechet": frechet_draws(real, other, weights[: _FRECHET_DRAWS + 1]),
            "kernel": paired_draws(real, other, weights),
        }
        for name, floor in (("retrieval", 0.0), ("retrieval_floored", FLOOR)):
            hits = nearest_is_source(looks.features, self.looks.features, own, floor)
            found[name] = mean_draws(hits.astype(float), weights)
        if self.judges.own is not None:
            hits = nearest_is_source(self.judges.own(images), self.described, own)
            found["retrieval_own"] = mean_draws(hits.astype(float), weights)
        if self.level <= NUCLEI_TO:
            found |= self._of_nuclei(images, weights)
        return {name: asdict(Interval.of(draws)) for name, draws in found.items()}

    @cached_property
    def _sharpness(self) -> list[float]:
        return [sharpness(p[None]) for p in self.pixels]

    def _of_nuclei(self, images: Pixels, weights: NDArray) -> dict[str, NDArray]:
        other = [find_nuclei(p, level_mpp(self.level)) for p in images]
        counts = count_matches(self.nuclei, other)
        rows = [counts.scores(w) for w in weights]
        found = {name: np.array([r[name] for r in rows]) for name in rows[0]}
        densities = np.array([[n.density for n in side] for side in (self.nuclei, other)])
        resampled = [
            densities[:, np.repeat(np.arange(len(images)), w.astype(int))] for w in weights
        ]
        found["density_correlation"] = np.array([correlation(*d) for d in resampled])
        whole = compare_nuclei(self.nuclei, other)
        for name in ("f1_by_chance", "area_distance", "intensity_distance"):
            found[name] = np.array([whole[name]])
        return found


def _ratio(values: list[float], of: list[float], weights: NDArray) -> NDArray:
    return weights @ np.array(values) / (weights @ np.array(of))


def stained(pixels: Pixels) -> float:
    """Fraction of stained px in an image."""
    span = pixels.max(-1).astype(np.int16) - pixels.min(-1)
    return float((span > _COLOURED).mean())


def spread(pixels: Pixels, count: int) -> Pixels:
    """Choose images spread evenly over those with more than half their px stained, or over all."""
    pool = [i for i, p in enumerate(pixels) if stained(p) > 0.5] or list(range(len(pixels)))
    chosen = np.linspace(0, len(pool) - 1, count + 2).astype(int)[1:-1]
    return pixels[np.array(pool)[chosen]]


def choose_places(
    slide: Reads, mask: NDArray[np.bool_], level: int, count: int, seed: int = 0
) -> tuple[NDArray[np.int64], Pixels]:
    """Choose random patches of a level, in grid order, at least half tissue and half stained.

    Args:
        slide: reader of the patches.
        mask: (rows, cols) tissue tiles.
        level: 0 to 7; patches start at whole multiples of their side.
        count: largest number of patches.
        seed: seed of the choice.

    Returns:
        (n, 2) x and y in px of the level, and pixels (n, 256, 256, 3).
    """
    side = 2**level
    rows, cols = (-(-n // side) for n in mask.shape)
    whole = np.zeros((rows * side, cols * side), np.float32)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    tissue_fraction = whole.reshape(rows, side, cols, side).mean((1, 3))
    candidates = np.argwhere(tissue_fraction >= 0.5)
    found: dict[tuple[int, int], Pixels] = {}
    for row, col in np.random.default_rng(seed).permutation(candidates).tolist():
        pixels = slide.read(level, col * TILE, row * TILE, TILE, TILE)
        if stained(pixels) > 0.5:
            found[row, col] = pixels
        if len(found) == count:
            break
    order = sorted(found)
    places = np.array([(c * TILE, r * TILE) for r, c in order], np.int64).reshape(-1, 2)
    return places, np.stack([found[p] for p in order]) if order else np.empty(
        (0, TILE, TILE, 3), np.uint8
    )


def choose_regions(mask: NDArray[np.bool_], count: int, side: int = REGION) -> NDArray[np.int64]:
    """Choose disjoint squares of `side` px, highest tissue fraction first: (n, 2) x, y at 20x."""
    tiles = side // TILE
    tiles = min(tiles, *mask.shape)
    windows = np.lib.stride_tricks.sliding_window_view(mask, (tiles, tiles))
    full = windows.sum((2, 3)).astype(np.int64)
    found = []
    while len(found) < count and full.max() > 0:
        row, col = np.unravel_index(full.argmax(), full.shape)
        found.append((col * TILE, row * TILE))
        full[max(0, row - tiles + 1) : row + tiles, max(0, col - tiles + 1) : col + tiles] = -1
    return np.array(found, np.int64).reshape(-1, 2)


def measure_regions(
    slide: Reads,
    rendered: Reads,
    regions: NDArray[np.int64],
    base: tuple[Reads, int] | None = None,
    period: int = TILE,
    side: int = REGION,
    each: Callable[[Pixels, Pixels], None] | None = None,
) -> dict[str, float]:
    """Measure on 20x regions what patches do not show: tissue placement, seams, holes, levels.

    Args:
        slide: reader of the real pixels.
        rendered: reader of the images to measure.
        regions: (n, 2) x and y at 20x, multiples of 4.
        base: reader of the base layer and its level, for finding holes.
        period: px between the lines where seams are measured.
        side: side of a region in px.
        each: called with the real and the measured pixels of each region.

    Returns:
        `luminance_4um`, `luminance_2um`, `haematoxylin_2um` (correlations, mean over regions),
        `seams`, `seams_worst`, `seams_real`, `seams_real_worst`, `child_10x` and `child_5x` (the
        greatest difference of a child's average from its parent, 1/255), `child_10x_mean`,
        `child_5x_mean`; with a base `lost` and `invented` (fractions of cells, in the worst
        region).
    """
    rows: list[dict[str, float]] = []
    lines, real_lines = [], []
    for x, y in regions.tolist():
        real, own = (s.read(0, x, y, side, side) for s in (slide, rendered))
        if each is not None:
            each(real, own)
        row: dict[str, float] = coarse_correlations(real, own)
        start = (x % period, y % period)
        lines.append(seams(own, period, start))
        real_lines.append(seams(real, period, start))
        child = own
        for level, name in ((1, "child_10x"), (2, "child_5x")):
            parent = rendered.read(level, x >> level, y >> level, side >> level, side >> level)
            apart = consistency(parent, child)
            row |= {name: apart.most, f"{name}_mean": apart.mean}
            child = parent
        if base is not None:
            reader, level = base
            step = 2**level
            box = (x // step, y // step, side // step, side // step)
            found = holes(reader.read(level, *box), rendered.read(level, *box), level_mpp(level))
            row |= {"lost": found.lost, "invented": found.invented}
        rows.append(row)
    worst = {"child_10x", "child_5x", "lost", "invented"}
    out = {
        name: float((np.max if name in worst else np.mean)([r[name] for r in rows]))
        for name in (rows[0] if rows else {})
    }
    if lines:
        ours, theirs = pooled_seams(lines), pooled_seams(real_lines)
        out |= {"seams": ours.mean, "seams_worst": ours.worst}
        out |= {"seams_real": theirs.mean, "seams_real_worst": theirs.worst}
    return out
