"""Large images as in the released code: resizing, windows, seam removal."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.diffusion.guidance import guided_beyond
from zoomldm.networks.summarizers import standardise

WINDOW = 64

Place = tuple[int, int]


@lru_cache(maxsize=32)
def resize_matrix(size: int, target: int) -> Tensor:
    """Bicubic resampling of one axis, (target, size) float32.

    Kernel of Keys 1981 with a = -0.5, stretched by the factor when shrinking; rows sum to 1;
    borders are mirrored about the edge of the outermost pixel.
    """
    scale = target / size
    stretch = max(1.0, 1 / scale)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) / scale - 0.5
    reach = int(2 * stretch) + 1
    taps = centre.floor()[:, None] + torch.arange(-reach, reach + 1, dtype=torch.float64)
    weight = _cubic((taps - centre[:, None]) / stretch)
    weight = weight / weight.sum(1, keepdim=True)
    place = taps.long() % (2 * size)
    place = torch.where(place < size, place, 2 * size - 1 - place)
    matrix = torch.zeros(target, size, dtype=torch.float64)
    return matrix.scatter_add_(1, place, weight).float()


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resized(images: Tensor, factor: float) -> Tensor:
    """Resize images (..., H, W) by `factor` (2, 1/8, ...), see `resize_matrix`."""
    h, w = images.shape[-2:]
    rows = resize_matrix(h, round(h * factor)).to(images)
    cols = resize_matrix(w, round(w * factor)).to(images)
    return rows @ images @ cols.T


def slerp(fraction: float, a: Tensor, b: Tensor) -> Tensor:
    """Spherical interpolation from a (fraction 0) to b (1) along the last axis.

    The weights use the angle between the vectors; interpolation is linear if that is under 1.8
    degrees or close to 180.
    """
    cosine = F.cosine_similarity(a, b, dim=-1)[..., None]
    straight = cosine.abs() > 0.9995
    angle = torch.where(straight, torch.zeros_like(cosine), cosine).clamp(-1, 1).arccos()
    curved = (((1 - fraction) * angle).sin() * a + (fraction * angle).sin() * b) / angle.sin()
    return torch.where(straight, (1 - fraction) * a + fraction * b, curved)


def window_embedding(grid: Tensor, row: int, col: int, side: int = WINDOW) -> Tensor:
    """Embedding (D,) of a window off the lattice, standardised.

    Args:
        grid: (rows, cols, D) raw embeddings; repeated at the lower and right border.
        row: first row of the window in latent cells, 0 to rows * side.
        col: first column.
        side: latent cells of a tile.
    """
    padded = torch.cat([grid, grid[-1:]])
    padded = torch.cat([padded, padded[:, -1:]], 1)
    r, c = min(row // side, len(grid) - 1), min(col // side, grid.shape[1] - 1)
    down, right = row / side - r, col / side - c
    top = slerp(right, padded[r, c], padded[r, c + 1])
    bottom = slerp(right, padded[r + 1, c], padded[r + 1, c + 1])
    return standardise(slerp(down, top, bottom))


def window_starts(size: int, side: int = WINDOW, stride: int = 16) -> list[int]:
    """Start positions of windows along an axis; the last window is flush with the end."""
    return sorted({*range(0, size - side + 1, stride), size - side})


def windows(height: int, width: int, stride: int, side: int = WINDOW) -> Iterator[tuple[int, int]]:
    """Yield row and column of each window's first cell, in raster order."""
    for row in window_starts(height, side, stride):
        for col in window_starts(width, side, stride):
            yield row, col


def gaussian_window(side: int) -> Tensor:
    """Weights (side, side) of a window: Gaussian with a std of 0.8 / sqrt 2 half sides, peak 1."""
    axis = torch.linspace(-1, 1, side)
    weight = torch.exp(-(axis[:, None] ** 2 + axis**2) / 0.64)
    return weight / weight.max()


def decode_strips(
    decode: Callable[[Tensor, list[Place]], Tensor],
    latents: Tensor,
    stride: int = 16,
    side: int = WINDOW,
    batch: int = 16,
) -> Iterator[Tensor]:
    """Decode latents larger than a patch, from the top down; see `gaussian_window` for the blend.

    At most one row of windows is held as pixels.

    Args:
        decode: latents (B, C, side, side) and their (row, col) to images (B, 3, f side, f side).
        latents: (1, C, h, w), h and w at least `side`.
        stride: step between windows.
        side: side of a window.
        batch: windows decoded at once.

    Yields:
        (1, 3, r, f w): the next finished rows of the image.
    """
    h, w = latents.shape[2:]
    rows, cols = window_starts(h, side, stride), window_starts(w, side, stride)
    total = weights = weight = None
    factor = 1
    for row, after in zip(rows, [*rows[1:], h], strict=True):
        for first in range(0, len(cols), batch):
            part = cols[first : first + batch]
            windows = [latents[:, :, row : row + side, col : col + side] for col in part]
            images = decode(torch.cat(windows), [(row, col) for col in part])
            if total is None or weights is None or weight is None:
                factor = images.shape[-1] // side
                weight = gaussian_window(side * factor).to(images)
                total = images.new_zeros((1, 3, side * factor, w * factor))
                weights = images.new_zeros((side * factor, w * factor))
            for col, image in zip(part, images, strict=True):
                span = slice(col * factor, (col + side) * factor)
                total[0, :, :, span] += weight * image
                weights[:, span] += weight
        assert total is not None and weights is not None
        done = min((after - row), side) * factor
        yield total[:, :, :done] / weights[:done]
        total = F.pad(total[:, :, done:], (0, 0, 0, done))
        weights = F.pad(weights[done:], (0, 0, 0, done))


def decode_large(
    decode: Callable[[Tensor], Tensor], latents: Tensor, stride: int = 16, side: int = WINDOW
) -> Tensor:
    """Decode latents larger than a patch into one image (1, 3, f h, f w); see `decode_strips`."""
    strips = decode_strips(lambda part, _: decode(part), latents, stride, side, batch=1)
    return torch.cat(list(strips), 2)


def to_bytes(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to uint8, truncated (not rounded) as in the released code."""
    return (255 * ((images + 1) / 2).clamp(0, 1)).to(torch.uint8)


def join_tiles(tiles: Tensor, rows: int) -> Tensor:
    """Join tiles (rows * cols, C, s, s) in raster order to one map (1, C, rows * s, cols * s)."""
    x = tiles.unflatten(0, (rows, -1)).permute(2, 0, 3, 1, 4)
    return x.flatten(3, 4).flatten(1, 2)[None]


def split_tiles(latents: Tensor, side: int = WINDOW) -> Tensor:
    """Split one map (1, C, h, w) into tiles (n, C, side, side) in raster order."""
    x = latents[0].unflatten(1, (-1, side)).unflatten(3, (-1, side))
    return x.permute(1, 3, 0, 2, 4).flatten(0, 1)


def added_variance(alphas: Tensor, step: int, before: Tensor) -> Tensor:
    """Variance of the fresh noise added by a step from `step` (1 to 1000) to alpha `before`."""
    beta = 1 - alphas[step - 1] / alphas[step - 2] if step > 1 else 1 - alphas[0]
    return beta * (1 - before) / (1 - alphas[step - 1])


def remove_seams(
    denoiser: Any,
    tiles: Tensor,
    contexts: Callable[[list[Place]], Tensor],
    alphas: Tensor,
    noise: Callable[[tuple[int, ...]], Tensor],
    rows: int,
    start: int = 300,
    stride: int = 50,
    extra: float = 2.0,
    window_stride: int = 16,
    exact_time: bool = False,
    batch: int = 16,
    begun: tuple[int, Tensor] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Add noise to separate tiles and denoise them in overlapping windows, so that they join.

    In each step the clean latents predicted by the windows are averaged where they overlap.

    Args:
        denoiser: `denoiser(latents, time, context)`, predicting noise.
        tiles: (n, C, side, side) in raster order.
        contexts: returns contexts (B, tokens, width) of windows at (row, col) in latent cells.
        alphas: (1000,) cumulative alphas.
        noise: returns standard normal noise of a shape: the tiles', then in each step the map's
            (1, C, h, w).
        rows: rows of tiles.
        start: steps of noise to add, 1 to 1000.
        stride: steps of noise removed at once.
        extra: guidance in the "+w" convention, see `guided_beyond`.
        window_stride: latent cells between windows.
        exact_time: give the network the time of its noise, t - 1, and not t as released.
        batch: windows denoised at once.
        begun: number of steps already done, and the map (1, C, h, w) after them; `noise` then
            starts with that of the next step.
        on_step: called with the number of steps done and the map after each.

    Returns:
        Tiles, laid out as the input.
    """
    side = tiles.shape[-1]
    alpha = alphas[start - 1]
    taken, x = begun or (0, None)
    if x is None:
        x = join_tiles(alpha.sqrt() * tiles + (1 - alpha).sqrt() * noise(tuple(tiles.shape)), rows)
    places = list(windows(x.shape[2], x.shape[3], window_stride, side))
    count = torch.zeros_like(x)
    for row, col in places:
        count[:, :, row : row + side, col : col + side] += 1
    for step, t in enumerate(range(start, 0, -stride), 1):
        if step <= taken:
            continue
        alpha, before = alphas[t - 1], alphas[max(t - 1 - stride, 0)]
        time = torch.tensor([t - 1 if exact_time else t], device=x.device)
        clean = torch.zeros_like(x)
        for first in range(0, len(places), batch):
            part = places[first : first + batch]
            window = torch.cat([x[:, :, r : r + side, c : c + side] for r, c in part])
            error = guided_beyond(denoiser, contexts(part), extra)(window, time.repeat(len(part)))
            predicted = (window - (1 - alpha).sqrt() * error) / alpha.sqrt()
            for (row, col), one in zip(part, predicted, strict=True):
                clean[0, :, row : row + side, col : col + side] += one
        clean /= count
        error = (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        added = added_variance(alphas, t, before)
        x = before.sqrt() * clean + (1 - before - added).sqrt() * error
        x = x + added.sqrt() * noise(tuple(x.shape))
        if on_step:
            on_step(step, x)
    return split_tiles(x, side)
