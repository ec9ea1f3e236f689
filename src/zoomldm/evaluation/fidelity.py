"""Fidelity of an image to the tissue that it should show: pure functions on pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import ConfigError
from zoomldm.evaluation.nuclei import correlation, haematoxylin

Pixels = NDArray[np.uint8]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CELL_UM = 16.0  # side of the cells in which holes are looked for
_PHASE = 8  # px: side of the decoders' folded blocks, a multiple of the period of enlarging
_TISSUE, _EMPTY = 0.12, 0.04  # mean optical density: clearly tissue, clearly empty


def psnr(a: Pixels, b: Pixels) -> NDArray[np.float32]:
    """Peak signal-to-noise ratio in dB of each pair of images (n, H, W, 3) uint8."""
    error = (a.astype(np.float32) - b.astype(np.float32)) ** 2
    return -10 * np.log10(np.maximum(error.mean((1, 2, 3)) / 255**2, 1e-10))


def ssim(a: Pixels, b: Pixels) -> NDArray[np.float64]:
    """Structural similarity (Wang et al. 2004, Gaussian window) of image pairs (n, H, W, 3) uint8.

    Raises:
        ConfigError: the extra `evaluation` is not installed.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed; SSIM comes with `pip install 'zoomldm[evaluation]'`"
        ) from error
    return np.array(
        [
            structural_similarity(
                x, y, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False,
            )
            for x, y in zip(a, b, strict=True)
        ]
    )  # fmt: skip


def luminance(pixels: Pixels) -> NDArray[np.float32]:
    """Luma of (..., 3) uint8 sRGB, 0 to 255."""
    return pixels.astype(np.float32) @ _LUMA


def sharpness(pixels: Pixels) -> float:
    """Mean absolute Laplacian of the luminance of (n, H, W, 3), a measure of fine detail."""
    grey = luminance(pixels)
    inner = grey[:, 1:-1, 1:-1] * 4
    inner -= grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return float(np.abs(inner).mean())


def averaged(values: NDArray, step: int) -> NDArray[np.float32]:
    """Average (H, W) or (H, W, C) over squares of `step` px; incomplete squares are cut off."""
    height, width = (n // step * step for n in values.shape[:2])
    shape = (height // step, step, width // step, step, *values.shape[2:])
    return values[:height, :width].astype(np.float32).reshape(shape).mean((1, 3))


def coarse_correlations(real: Pixels, shown: Pixels, mpp: float = 0.5) -> dict[str, float]:
    """Measure whether tissue is in its place: correlations of two averaged regions (H, W, 3).

    Returns:
        `luminance_4um`, `luminance_2um` and `haematoxylin_2um`: Pearson correlations of averages
        over squares of that many um.
    """

    def of(step_um: float, values: tuple[NDArray, NDArray]) -> float:
        step = max(1, round(step_um / mpp))
        return correlation(averaged(values[0], step), averaged(values[1], step))

    grey = luminance(real), luminance(shown)
    stain = haematoxylin(real), haematoxylin(shown)
    return {
        "luminance_4um": of(4, grey),
        "luminance_2um": of(2, grey),
        "haematoxylin_2um": of(2, stain),
    }


@dataclass(frozen=True)
class Seams:
    """Ratio of the differences across the lines of a lattice to those beside them.

    Attributes:
        mean: over all lines; 1 if they can't be seen.
        worst: of the most visible line.
        lines: number of lines.
    """

    mean: float
    worst: float
    lines: int


def seams(
    pixels: Pixels, period: int = 256, start: tuple[int, int] = (0, 0), beside: int = 64
) -> Seams:
    """Measure how visible the lines of a lattice are in an image (H, W, 3) uint8.

    The figure of a line is the mean absolute difference of the two columns (rows) that meet at it,
    divided by the mean of the same 8, 16, 24 ... px away. Decoders and enlarging leave a pattern
    with a period of eight px or a fraction of that, which is not a seam. Real tissue, measured
    alike, is the control: its lines average about 1; compare the worst line with their spread.

    Args:
        pixels: the image.
        period: px between lines.
        start: x and y (px of the lattice) of the image's top-left corner; lines lie where x or y
            is a multiple of `period`.
        beside: px to each side that count as the inside, at most half the period.

    Raises:
        ConfigError: no line crosses the image.
    """
    values = pixels.astype(np.float32)
    across, inside = [], []
    beside = min(beside, period // 2)
    for axis, begin in ((1, start[0]), (0, start[1])):
        steps = np.abs(np.diff(values, axis=axis)).mean((1 - axis, 2))  # step i: from px i to i + 1
        for i in range(-begin % period - 1, len(steps), period):
            if i < 0:
                continue
            apart = np.arange(_PHASE, beside + 1, _PHASE)
            near = np.concatenate([i - apart, i + apart])
            near = steps[near[(near >= 0) & (near < len(steps))]]
            if len(near):
                across.append(float(steps[i]))
                inside.append(float(near.mean()))
    if not across:
        raise ConfigError(f"no line of a lattice of {period} px crosses the image")
    ratios = [(a + 1e-3) / (b + 1e-3) for a, b in zip(across, inside, strict=True)]
    total = (sum(across) + 1e-3) / (sum(inside) + 1e-3)
    return Seams(total, max(ratios), len(ratios))


@dataclass(frozen=True)
class Holes:
    """Cells in which tissue comes back white, and the reverse.

    Attributes:
        lost: fraction of the cells with clear tissue in the base layer that are clearly empty in
            the image.
        invented: the reverse: fraction of the clearly empty cells that show clear tissue.
        cells: number of cells compared.
    """

    lost: float
    invented: float
    cells: int


def holes(base: Pixels, image: Pixels, mpp: float) -> Holes:
    """Find tissue of the base layer that is missing in an image of the same place, and vice versa.

    Both are (H, W, 3) uint8 at the same mpp and are averaged over cells of 16 um. A cell is
    clearly tissue from a mean optical density of 0.12, clearly empty up to 0.04 (against white).
    """
    if base.shape != image.shape:
        raise ConfigError(f"images of {base.shape} and {image.shape}; expected one size")
    step = max(1, round(_CELL_UM / mpp))
    before, after = (
        averaged(-np.log10((p.astype(np.float32) + 1) / 256), step).mean(2) for p in (base, image)
    )
    tissue, empty = before >= _TISSUE, before <= _EMPTY
    lost = (tissue & (after <= _EMPTY)).sum() / max(1, tissue.sum())
    invented = (empty & (after >= _TISSUE)).sum() / max(1, empty.sum())
    return Holes(float(lost), float(invented), before.size)


@dataclass(frozen=True)
class Consistency:
    """Difference between a child, averaged down, and its parent, in units of 1/255.

    Attributes:
        mean, most: mean and greatest absolute difference.
        beyond: fraction of values that differ by more than 1.
    """

    mean: float
    most: float
    beyond: float


def consistency(parent: Pixels, child: Pixels) -> Consistency:
    """Compare a child (2H, 2W, 3), averaged over 2 x 2 px, with its parent (H, W, 3), both uint8.

    Raises:
        ConfigError: the child is not twice the parent's size.
    """
    height, width = parent.shape[:2]
    if child.shape[:2] != (2 * height, 2 * width):
        raise ConfigError(
            f"child of {child.shape[1]} x {child.shape[0]} px, parent of {width} x {height}; "
            "expected twice its size"
        )
    apart = np.abs(averaged(child, 2) - parent)
    return Consistency(float(apart.mean()), float(apart.max()), float((apart > 1.0).mean()))


def pooled_seams(found: Sequence[Seams]) -> Seams:
    """Pool the seams of several images: mean over all lines, and the worst line."""
    lines = sum(s.lines for s in found)
    mean = sum(s.mean * s.lines for s in found) / max(1, lines)
    return Seams(mean, max((s.worst for s in found), default=float("nan")), lines)
