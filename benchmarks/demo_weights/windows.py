"""Windows of virtual slides, drawn at random and gathered in bulk on their device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from virtual import BASES, CHUNK, FINE, LEVELS, SIDE, TOKEN, Slide


def halved(pixels: Tensor) -> Tensor:
    """Average over 2 x 2, rounded; an odd edge is first padded with white."""
    x = pixels.permute(2, 0, 1)[None].float()
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), value=255)
    return F.avg_pool2d(x, 2)[0].add(0.5).floor().to(torch.uint8).permute(1, 2, 0)


def pixel_pool(images: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Join arrays (h, w, ...) to one (n + 1, ...), with the start and the shape of each."""
    sizes = torch.tensor([i.shape[0] * i.shape[1] for i in images])
    starts = torch.cumsum(sizes, 0) - sizes
    device = images[0].device
    flat = torch.cat([i.reshape(-1, *i.shape[2:]) for i in images])
    shapes = torch.tensor([[i.shape[0], i.shape[1]] for i in images])
    return flat, starts.to(device), shapes.to(device)


class Pool:
    """Arrays of many slides from which windows are gathered at once.

    Args:
        images: (h, w, ...) of each slide.
        fill: value outside each slide; (slides, ...) or one number.
    """

    def __init__(self, images: Sequence[Tensor], fill: Tensor | float) -> None:
        self.flat, self.starts, self.shapes = pixel_pool(images)
        self.fill = fill

    def windows(self, slide: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
        """Gather windows (B, side, side, ...)."""
        line = torch.arange(side, device=top.device)
        y, x = top[:, None] + line, left[:, None] + line
        high, wide = self.shapes[slide].unbind(1)
        inside = ((y >= 0) & (y < high[:, None]))[:, :, None]
        inside = inside & ((x >= 0) & (x < wide[:, None]))[:, None]
        index = self.starts[slide, None, None] + y[:, :, None] * wide[:, None, None] + x[:, None]
        out = self.flat[torch.where(inside, index, 0)]
        fill = self.fill
        if isinstance(fill, Tensor):
            fill = fill[slide][:, None, None]
        else:
            fill = torch.tensor(fill, dtype=out.dtype, device=out.device)
        return torch.where(inside.reshape(*inside.shape, *[1] * (out.dim() - 3)), out, fill)


@dataclass
class WindowBatch:
    """Windows of one level.

    Attributes:
        slide: (n,) index of the virtual slide.
        top: (n,) in pixels of level + 2, which are four times as large as the level's.
        left: likewise.
        pixels: (n, 64, 64, 3) uint8 of level + 2.
        lossy: the same from the base layer, None from 2.5x on.
        quality: (n,) quality of the base layer.
        grids: (n, s, s, D).
        shifts: (n, 2), or None from 2.5x on.
    """

    slide: Tensor
    top: Tensor
    left: Tensor
    pixels: Tensor
    lossy: Tensor | None
    quality: Tensor
    grids: Tensor
    shifts: Tensor | None


class World:
    """Windows of virtual slides, drawn on their device by the rules of `zoomldm.data.rasters`.

    Args:
        slides: the virtual slides.
        withheld: whether to draw from tissue withheld from training.
        least: see `RasterPatches`.
        seed: seed of the windows.
    """

    def __init__(
        self, slides: Sequence[Slide], withheld: bool = False, least: float = 0.2, seed: int = 0
    ) -> None:
        self.withheld, self.least = withheld, least
        device = slides[0].pixels.device
        self.device = device
        self.random = torch.Generator(device).manual_seed(seed)
        self.names = [s.name for s in slides]
        levels = [[s.pixels for s in slides]]
        lossy = [[s.lossy for s in slides]]
        for k in range(1, LEVELS):
            levels.append([halved(x) for x in levels[-1]])
            if k < BASES:
                lossy.append([halved(x) for x in lossy[-1]])
        fill = torch.stack([s.glass for s in slides])
        self.pixels = [Pool(x, fill) for x in levels]
        self.lossy = [Pool(x, fill) for x in lossy]
        self.quality = Pool([s.quality for s in slides], 50)
        self.background = torch.stack([s.background for s in slides])
        self.embeddings = Pool([s.embeddings for s in slides], self.background)
        self.mask = Pool([s.mask for s in slides], False)
        self.withheld_mask = Pool([s.withheld for s in slides], False)
        tissue = [torch.nonzero(s.withheld & s.mask if withheld else s.mask) for s in slides]
        counts = torch.tensor([len(t) for t in tissue], device=device)
        self.counts, self.firsts = counts, torch.cumsum(counts, 0) - counts
        self.tissue = torch.cat(tissue)

    def _integers(self, high: Tensor | int, shape: tuple[int, ...]) -> Tensor:
        uniform = torch.rand(shape, generator=self.random, device=self.device, dtype=torch.float64)
        return (uniform * high).long()

    def places(self, level: int, count: int, whole: bool = False) -> tuple[Tensor, ...]:
        """Slide, top and left (count,) of windows that fit."""
        tile = max(SIDE >> level, 1)
        step = tile if whole or level >= FINE else TOKEN
        weight = self.counts.double() ** (1.0 if level < FINE else 0.5)
        parts: list[Tensor] = []
        found = 0
        while found < count:
            n = 2 * count
            slide = torch.multinomial(weight, n, True, generator=self.random)
            picked = self.firsts[slide] + self._integers(self.counts[slide], (n,))
            at = (self.tissue[picked] * SIDE) >> level
            at = at - self._integers(SIDE, (n, 2))
            at = -((-at) // step) * step
            fits = self._fits(level, slide, at[:, 0], at[:, 1])
            parts.append(torch.cat([slide[:, None], at], 1)[fits])
            found += len(parts[-1])
        out = torch.cat(parts)[:count]
        return out[:, 0], out[:, 1], out[:, 2]

    def _fits(self, level: int, slide: Tensor, top: Tensor, left: Tensor) -> Tensor:
        row, col = (top << level) // SIDE, (left << level) // SIDE
        side = (1 << level) + int(level < FINE)
        mask = torch.cat(
            [
                self.mask.windows(s, r, c, side).flatten(1).float().mean(1, keepdim=True)
                for s, r, c in zip(slide.split(64), row.split(64), col.split(64), strict=True)
            ]
            if level >= 5
            else [self.mask.windows(slide, row, col, side).flatten(1).float().mean(1, keepdim=True)]
        )[:, 0]
        withheld = self.withheld_mask.windows(slide, row, col, side).flatten(1).float().mean(1)
        good = mask > 0
        if level < FINE:
            good = good & (mask >= self.least)
            return good & (withheld * 2 > mask if self.withheld else withheld == 0)
        return good & (withheld * 2 > mask if self.withheld else withheld * 2 <= mask)

    def at(self, level: int, slide: Tensor, top: Tensor, left: Tensor) -> WindowBatch:
        """Windows at places given in pixels of level + 2."""
        pixels = self.pixels[level].windows(slide, top, left, SIDE)
        lossy = self.lossy[level].windows(slide, top, left, SIDE) if level < BASES else None
        half = SIDE // 2
        y, x = ((top + half) << level) // CHUNK, ((left + half) << level) // CHUNK
        quality = self.quality.windows(slide, y, x, 1)[:, 0, 0]
        row, col = (top << level) // SIDE, (left << level) // SIDE
        side = (1 << level) + int(level < FINE)
        grids = self.embeddings.windows(slide, row, col, side)
        shifts = None
        if level < FINE:
            tile = SIDE >> level
            shifts = torch.stack([(top - row * tile) // TOKEN, (left - col * tile) // TOKEN], 1)
        return WindowBatch(slide, top, left, pixels, lossy, quality, grids, shifts)

    def draw(self, level: int, count: int, whole: bool = False) -> WindowBatch:
        """Draw `count` windows of a level."""
        return self.at(level, *self.places(level, count, whole))
