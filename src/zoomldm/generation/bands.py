"""Coarse content of one prediction, detail of another: what few evaluations leave uneven.

A sampled image is one of the possible ones, an expected image their mean. Where a base layer is
known, all possible images nearly agree in what is coarse; there sampling adds nothing but error, up
to twice the least possible one. In the finest bands the expected image has hardly any contrast;
what a few evaluations add is far too little in tissue, and too much on glass.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.networks.lowpass import Planes, dct

CUTS = (0.5, 0.35)  # of luminance (16 px of the level) and chroma (46 px), over Nyquist's frequency
WIDTH = 0.06  # of the transition, likewise
GAIN = 1.4  # of what sampling adds to the expected image, with up to FEW evaluations; 1 with more
FEW = 3
FLAT, TEXTURED = 0.015, 0.07  # local std of expected luminance: on glass, and in all tissue
GLASS = 0.4  # of the gain, on glass
SQUARE = 9  # side of what is local (36 px of the level)
GOOD, POOR = 0.65, 0.76  # losses of a base layer's codec between which luminance's cut falls ...
POOR_CUT = 0.35  # ... to this one


def recombined(
    expected: Planes,
    sampled: Planes,
    cuts: tuple[float, float] = CUTS,
    gain: float = GAIN,
) -> Planes:
    """An image as coarse as expected and as detailed as sampled.

    Args:
        expected: mean of the possible images, square.
        sampled: one of them.
        cuts: frequencies, of luminance and of chroma, below which the expected image is used, over
            the highest (Nyquist's) of each plane.
        gain: of what the sampled image has beyond the expected one above the cuts; less of it where
            the expected luminance is flat.

    Returns:
        As large. Defaults were chosen on training slides (benchmarks/recombining.py).

    Examples:
        >>> flat = Planes(torch.zeros(1, 1, 64, 64), torch.zeros(1, 2, 32, 32))
        >>> brighter = Planes(torch.ones(1, 1, 64, 64), torch.ones(1, 2, 32, 32))
        >>> bool(recombined(flat, brighter).luma.max() < 0.01)
        True
    """
    luma, chroma = (
        gain * above(b - a, cut) for a, b, cut in zip(expected, sampled, cuts, strict=True)
    )
    weight = _texture(expected.luma)
    return Planes(expected.luma + luma * weight, expected.chroma + chroma * F.avg_pool2d(weight, 2))


def gain_after(steps: int) -> float:
    """Gain after so many evaluations: up to FEW leave too little variance.

    Examples:
        >>> gain_after(3), gain_after(6)
        (1.4, 1.0)
    """
    return GAIN if steps <= FEW else 1.0


def cuts_under(loss: float) -> tuple[float, float]:
    """Cuts under a base layer: lower where its codec kept less of the middle bands.

    Args:
        loss: see `zoomldm.generation.octaves.codec_loss`, 0 to 1.

    Examples:
        >>> cuts_under(1 - 43 / 100), cuts_under(1 - 24 / 100)  # AVIF of 45 to 1, and of 78 to 1
        ((0.5, 0.35), (0.35, 0.35))
    """
    poor = min(max((loss - GOOD) / (POOR - GOOD), 0.0), 1.0)
    return CUTS[0] - poor * (CUTS[0] - POOR_CUT), CUTS[1]


def local_std(luma: Tensor) -> Tensor:
    """Standard deviation of luminance (B, 1, n, n) in the square of SQUARE px around each px."""
    mean, square = (
        F.avg_pool2d(x, SQUARE, 1, SQUARE // 2, count_include_pad=False) for x in (luma, luma**2)
    )
    return (square - mean**2).clamp(min=0).sqrt()


def _texture(luma: Tensor) -> Tensor:
    """From GLASS where luminance (B, 1, n, n) is flat to 1 where it is tissue's."""
    x = ((local_std(luma) - FLAT) / (TEXTURED - FLAT)).clamp(0, 1)
    return GLASS + (1 - GLASS) * (3 * x**2 - 2 * x**3)


def above(plane: Tensor, cut: float) -> Tensor:
    """What a plane (B, C, n, n) has above a frequency, over Nyquist's."""
    n = plane.shape[-1]
    u = torch.arange(n) / n
    weight = torch.sigmoid(((u[:, None] ** 2 + u**2).sqrt() - cut) / WIDTH)
    d = dct(n, plane)
    return d.T @ ((d @ plane @ d.T) * weight.to(plane)) @ d
