"""Detect nuclei with a classical detector on haematoxylin, and compare them between images.

The detector does not depend on how an image was made. Its parameters were set by eye on tiles of
two slides (docs/nuclei.jpg) and are the same for all images. It needs the extra `evaluation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoomldm.errors import ConfigError
from zoomldm.geometry.levels import BASE_MPP

# Optical densities (R, G, B) of haematoxylin and eosin (Ruifrok and Johnston 2001); the axis
# orthogonal to both is added in `haematoxylin`.
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
WITHIN_UM = 3.0  # centroids farther apart than this belong to different nuclei

# All in px of 0.5 um and in optical density of haematoxylin.
_FINE, _WIDE, _SPOT, _PEAK = 1.0, 10.0, 2.5, 1.5  # standard deviations of Gaussians
_LEAST_DENSITY = 0.22  # of a px in a nucleus
_OVER_SURROUND = 0.04  # of a px above its surroundings
_LEAST_PEAK = 0.40  # fibres and red cells stay below
_LEAST_CONTRAST = 0.10  # of a nucleus above its surroundings
_LEAST_AREA = 24  # px: 6 um^2
_APART = 4  # px between seeds
_BRIGHTEST = 0.8  # densities are clipped here: higher ones do not help to locate the centre


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one image.

    Attributes:
        centroids: (n, 2) y and x in um from the top-left corner of the image.
        areas: (n,) um^2.
        intensities: (n,) mean optical density of haematoxylin.
        size: height and width of the image in um.
    """

    centroids: NDArray[np.float64]
    areas: NDArray[np.float64]
    intensities: NDArray[np.float64]
    size: tuple[float, float]

    def __len__(self) -> int:
        return len(self.areas)

    @property
    def density(self) -> float:
        """Nuclei per mm^2."""
        return len(self) / (self.size[0] * self.size[1]) * 1e6


def haematoxylin(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density of haematoxylin: (..., 3) uint8 sRGB to (...), about 0 to 1.

    Colour deconvolution (Ruifrok and Johnston 2001) with unit stain vectors; the third is
    orthogonal to the other two.
    """
    unit = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    third = np.cross(*unit)
    inverse = np.linalg.inv(np.stack([*unit, third / np.linalg.norm(third)]))
    density = -np.log10((pixels.astype(np.float32) + 1) / 256)
    return density @ inverse[:, 0].astype(np.float32)


def label_nuclei(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Label the nuclei of an image (h, w, 3) uint8 at 0.5 mpp: (h, w), 0 outside nuclei.

    The mask is where density exceeds a threshold and its surroundings, after opening. Seeds are
    the maxima of the distance to the edge and the Laplacian of Gaussian combined; a watershed
    grows from them. Objects that are small, pale or no darker than their surroundings are dropped.
    """
    ndimage, feature, segmentation = _libraries()
    density = haematoxylin(pixels)
    fine, wide, peak = (
        ndimage.gaussian_filter(density, s, mode="nearest") for s in (_FINE, _WIDE, _PEAK)
    )
    mask = (fine > _LEAST_DENSITY) & (fine > wide + _OVER_SURROUND)
    mask = ndimage.binary_opening(mask, ndimage.generate_binary_structure(2, 1), iterations=2)
    mask = ndimage.binary_fill_holes(mask)
    spots = -ndimage.gaussian_laplace(np.minimum(fine, _BRIGHTEST), _SPOT, mode="nearest")
    score = ndimage.distance_transform_edt(mask) / 3 + 3 * _SPOT**2 * spots
    score = ndimage.gaussian_filter(score, 1.2)
    seeds = np.zeros(mask.shape, np.int32)
    peaks = feature.peak_local_max(
        score, min_distance=_APART, labels=mask.astype(np.int32), exclude_border=False
    )
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = segmentation.watershed(-score, seeds, mask=mask)
    every = np.arange(len(peaks) + 1)
    area = np.bincount(labels.ravel(), minlength=len(every))
    highest = np.asarray(ndimage.maximum(peak, labels, every))
    contrast = np.asarray(ndimage.mean(fine - wide, labels, every))
    accepted = (area >= _LEAST_AREA) & (highest >= _LEAST_PEAK) & (contrast >= _LEAST_CONTRAST)
    accepted[0] = False
    return np.where(accepted, np.cumsum(accepted), 0).astype(np.int32)[labels]


def find_nuclei(pixels: NDArray[np.uint8], mpp: float = BASE_MPP) -> Nuclei:
    """Find the nuclei of an image (h, w, 3) uint8 sRGB.

    Args:
        pixels: the image.
        mpp: its micrometres per pixel, at most 1; it is resampled to 0.5 (bicubic).

    Raises:
        ConfigError: the image is too coarse for nuclei, or the extra `evaluation` is not installed.
    """
    if mpp > 2 * BASE_MPP:
        raise ConfigError(f"nuclei can't be told apart at {mpp} mpp; expected 1 or finer")
    ndimage = _libraries()[0]
    height, width = pixels.shape[:2]
    if mpp != BASE_MPP:
        scaled = (round(width * mpp / BASE_MPP), round(height * mpp / BASE_MPP))
        image = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(image.resize(scaled, Image.Resampling.BICUBIC))
    labels = label_nuclei(pixels)
    every = np.arange(1, labels.max() + 1)
    size = (height * mpp, width * mpp)
    if not len(every):
        return Nuclei(np.empty((0, 2)), np.empty(0), np.empty(0), size)
    middles = np.array(ndimage.center_of_mass(labels > 0, labels, every)) + 0.5
    return Nuclei(
        centroids=middles * BASE_MPP,
        areas=(np.bincount(labels.ravel(), minlength=len(every) + 1)[1:] * BASE_MPP**2).astype(
            np.float64
        ),
        intensities=np.asarray(ndimage.mean(haematoxylin(pixels), labels, every), np.float64),
        size=size,
    )


def match_centroids(
    a: NDArray[np.float64], b: NDArray[np.float64], within: float = WITHIN_UM
) -> NDArray[np.int64]:
    """Match points (n, 2) one to one and return index pairs (m, 2).

    Finds the greatest possible number of pairs within the distance, and of those the nearest.
    """
    from scipy.optimize import linear_sum_assignment

    if not len(a) or not len(b):
        return np.empty((0, 2), np.int64)
    apart = np.linalg.norm(a[:, None] - b[None], axis=-1)
    far = within * (1 + min(len(a), len(b)))  # costs more than all other pairs together
    rows, cols = linear_sum_assignment(np.where(apart <= within, apart, far))
    near = apart[rows, cols] <= within
    return np.stack([rows[near], cols[near]], 1).astype(np.int64)


@dataclass(frozen=True)
class Counts:
    """Counts of nuclei for pairs of images, one entry per pair, for precision and recall.

    Attributes:
        real, shown, matched: (n,) numbers of nuclei.
    """

    real: NDArray[np.float64]
    shown: NDArray[np.float64]
    matched: NDArray[np.float64]

    def scores(self, weights: NDArray | None = None) -> dict[str, float]:
        """Compute `precision`, `recall` and `f1` over all pairs; NaN without nuclei.

        Args:
            weights: (n,) how often each pair counts; None for once each.
        """
        w = np.ones(len(self.real)) if weights is None else weights
        real, shown, matched = (float((w * v).sum()) for v in (self.real, self.shown, self.matched))
        return {
            "precision": matched / shown if shown else float("nan"),
            "recall": matched / real if real else float("nan"),
            "f1": 2 * matched / (real + shown) if real + shown else float("nan"),
        }


def count_matches(
    real: Sequence[Nuclei], shown: Sequence[Nuclei], within: float = WITHIN_UM
) -> Counts:
    """Count the nuclei of real images and their reconstructions, and those that match."""
    matched = [
        len(match_centroids(a.centroids, b.centroids, within))
        for a, b in zip(real, shown, strict=True)
    ]
    return Counts(
        np.array([len(a) for a in real], np.float64),
        np.array([len(b) for b in shown], np.float64),
        np.array(matched, np.float64),
    )


def compare_nuclei(real: Sequence[Nuclei], shown: Sequence[Nuclei]) -> dict[str, Any]:
    """Compare the nuclei of n real images with those of their reconstructions.

    Returns:
        `precision`, `recall`, `f1` over all nuclei; `f1_by_chance`, the F1 against the real nuclei
        of the next image: the score of the right density at wrong places; `density_correlation`
        (Pearson) over images; `area_distance` (um^2) and `intensity_distance` (optical density),
        Wasserstein distances between all nuclei of both sides; `nuclei_real`, `nuclei_made`.
    """
    counts = count_matches(real, shown)
    beside = count_matches([*real[1:], *real[:1]], shown)
    return {
        **counts.scores(),
        "f1_by_chance": beside.scores()["f1"] if len(real) > 1 else float("nan"),
        "density_correlation": correlation(
            np.array([a.density for a in real]), np.array([b.density for b in shown])
        ),
        "area_distance": _distance([a.areas for a in real], [b.areas for b in shown]),
        "intensity_distance": _distance(
            [a.intensities for a in real], [b.intensities for b in shown]
        ),
        "nuclei_real": int(counts.real.sum()),
        "nuclei_made": int(counts.shown.sum()),
    }


def correlation(a: NDArray, b: NDArray) -> float:
    """Pearson correlation of two arrays of equal size; NaN if either is constant."""
    a, b = (v.astype(np.float64).ravel() - v.mean() for v in (a, b))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def outlined(pixels: NDArray[np.uint8], zoom: int = 3) -> NDArray[np.uint8]:
    """Enlarge an image and draw a green outline around each nucleus, for inspection."""
    segmentation = _libraries()[2]
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels).resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)
    labels = label_nuclei(pixels).repeat(zoom, 0).repeat(zoom, 1)
    out = np.array(image)
    out[segmentation.find_boundaries(labels, mode="inner")] = (0, 230, 0)
    return out


def nuclei_sheet(pixels: NDArray[np.uint8], across: int = 5) -> NDArray[np.uint8]:
    """Outline nuclei on tiles (n, 256, 256, 3), `across` per row; white fills the last row."""
    tiles = [outlined(p, 2) for p in pixels]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % across)
    rows = [np.concatenate(tiles[i : i + across], 1) for i in range(0, len(tiles), across)]
    return np.concatenate(rows)


def _distance(a: Sequence[NDArray], b: Sequence[NDArray]) -> float:
    from scipy.stats import wasserstein_distance

    left, right = np.concatenate(a), np.concatenate(b)
    if not len(left) or not len(right):
        return float("nan")
    return float(wasserstein_distance(left, right))


def _libraries() -> tuple[Any, Any, Any]:
    try:
        from scipy import ndimage
        from skimage import feature, segmentation
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed; nuclei are found with "
            "`pip install 'zoomldm[evaluation]'`"
        ) from error
    return ndimage, feature, segmentation
