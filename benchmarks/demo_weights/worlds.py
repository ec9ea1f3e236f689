"""Virtual slides on a device, and contexts of their patches: all by index, in bulk."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoomldm.generation.contexts import softened
from zoomldm.geometry.levels import COUNT, patch_tiles
from zoomldm.networks.summarizers import SIDE, CNNSummarizer

POOLED = 5  # level from which contexts are stored
SOFT = 0.5  # fraction of parents that are softened, as sampled ones may be
MIN_RELATIVE_TISSUE = 0.25  # least tissue of a patch, relative to its level's largest on the slide
MARGIN = 2  # tiles around a patch that a reference may lie in
TRIES = 16  # attempts at finding a reference
MOST = 4000  # patches per slide and level to draw from
SHARED_FROM, SHARED_MOST = 4, 0.25  # see zoomldm.geometry.withheld
CHUNK = (2048, 2048, 1024, 512, 256, 96, 48, 16)  # grids summarised at once, by level


@dataclass
class Items:
    """Contexts with the conditions for them.

    Attributes:
        contexts: (n, 64, width) float16.
        parents: (n, 16, width) float16, zeros for none.
        references: (n, D) float16, zeros for none.
        level: (n,).
    """

    contexts: Tensor
    parents: Tensor
    references: Tensor
    level: Tensor

    @classmethod
    def joined(cls, parts: list["Items"]) -> "Items":
        """Concatenate several."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def take(self, places: Tensor) -> "Items":
        """Return the items at indices (m,)."""
        return Items(*(getattr(self, f.name)[places] for f in fields(self)))

    def put(self, places: Tensor, fresh: "Items") -> None:
        """Set the items at indices (m,)."""
        for field in fields(self):
            getattr(self, field.name)[places] = getattr(fresh, field.name)


class EmbeddedSlides:
    """Embeddings and masks of all slides in flat tensors on a device.

    Args:
        path: file with a list of dicts, see this folder's `embedding_diffusion.py`.
        device: device of the tensors.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        slides = torch.load(path, map_location="cpu", weights_only=False)
        slides = [{k: as_tensor(v) for k, v in slide.items()} for slide in slides]
        self.count, self.device = len(slides), device
        self.dim = slides[0]["embeddings"].shape[-1]
        shapes = torch.tensor([s["mask"].shape for s in slides])
        self.rows, self.cols = shapes.to(device).unbind(1)
        self.begin = _starts(shapes.prod(1)).to(device)
        self.sums_begin = _starts((shapes + 1).prod(1)).to(device)
        flat = [s["embeddings"].flatten(0, 1).half() for s in slides]
        self.outside = sum(len(f) for f in flat)  # where the backgrounds start
        grounds = torch.stack([s["background"].half() for s in slides])
        self.embeddings = torch.cat([*flat, grounds]).to(device)
        masks = [s["mask"].bool().to(device) for s in slides]
        blocks = [s["withheld"].bool().to(device) for s in slides]
        usable = [(m & ~b).flatten() for m, b in zip(masks, blocks, strict=True)]
        self.usable = torch.cat(usable)
        self.tissue_sums = torch.cat([_sums(m).flatten() for m in masks])
        self.block_sums = torch.cat([_sums(b).flatten() for b in blocks])
        self.tissue = sum(int(m.sum()) for m in masks)

    def within(self, sums: Tensor, slide: Tensor, r: Tensor, c: Tensor, side: int) -> Tensor:
        """Sum `tissue_sums` or `block_sums` over squares of `side` tiles that start at (r, c)."""
        rows, cols = self.rows[slide], self.cols[slide]
        first, width = self.sums_begin[slide], cols + 1
        zero = torch.zeros_like(rows)
        top, bottom = (torch.minimum((r + d).maximum(zero), rows) * width for d in (0, side))
        left, right = (torch.minimum((c + d).maximum(zero), cols) for d in (0, side))
        below = sums[first + bottom + right] - sums[first + bottom + left]
        return below - sums[first + top + right] + sums[first + top + left]

    def withheld(self, level: int, slide: Tensor, r: Tensor, c: Tensor, more: int = 0) -> Tensor:
        """Which patches are withheld from training, by the rules of `zoomldm.geometry.withheld`."""
        side = patch_tiles(level) + more
        hit = self.within(self.block_sums, slide, r, c, side)
        if level < SHARED_FROM:
            return hit > 0
        return hit > SHARED_MOST * self.within(self.tissue_sums, slide, r, c, side)

    def grids(self, slide: Tensor, r: Tensor, c: Tensor, side: int) -> Tensor:
        """Embeddings (n, side, side, D) of squares; the background outside a slide."""
        cells = torch.arange(side, device=self.device)
        rows, cols = (r[:, None] + cells)[:, :, None], (c[:, None] + cells)[:, None]
        high, wide = self.rows[slide, None, None], self.cols[slide, None, None]
        inside = (rows >= 0) & (rows < high) & (cols >= 0) & (cols < wide)
        place = self.begin[slide, None, None] + rows * wide + cols
        return self.embeddings[torch.where(inside, place, self.outside + slide[:, None, None])]

    def references(self, level: int, slide: Tensor, r: Tensor, c: Tensor) -> Tensor:
        """Embeddings (n, D) of tissue in or beside patches; zeros if none was found.

        At 20x it is a tile other than the patch.
        """
        span = patch_tiles(level) + 2 * MARGIN
        shape, device = (len(slide), TRIES), self.device
        rows, cols = (
            torch.randint(span, shape, device=device) + v[:, None] - MARGIN for v in (r, c)
        )
        high, wide = self.rows[slide, None], self.cols[slide, None]
        fits = (rows >= 0) & (rows < high) & (cols >= 0) & (cols < wide)
        if level == 0:
            fits &= (rows != r[:, None]) | (cols != c[:, None])
        place = torch.where(fits, self.begin[slide, None] + rows * wide + cols, 0)
        fits &= self.usable[place]
        pick = fits.to(torch.int8).argmax(1, keepdim=True)
        found = self.embeddings[place.gather(1, pick)[:, 0]]
        return torch.where(fits.gather(1, pick), found, 0)

    def patches(self, level: int) -> tuple[Tensor, Tensor]:
        """First tiles (n, 3) of patches to train on, and of withheld ones; up to `MOST` a slide."""
        side, training, out = patch_tiles(level), [], []
        for number in range(self.count):
            r, c = torch.meshgrid(
                torch.arange(1 - side, int(self.rows[number]), device=self.device),
                torch.arange(1 - side, int(self.cols[number]), device=self.device),
                indexing="ij",
            )
            r, c = r.flatten(), c.flatten()
            slide = torch.full_like(r, number)
            tissue = self.within(self.tissue_sums, slide, r, c, side)
            fits = tissue >= (MIN_RELATIVE_TISSUE * tissue.max()).clamp(min=1)
            places = torch.stack([slide, r, c], 1)[fits]
            places = places[torch.randperm(len(places), device=self.device)[:MOST]]
            away = self.withheld(level, *places.unbind(1))
            training.append(places[~away])
            out.append(places[away])
        return torch.cat(training), torch.cat(out)


class Windows:
    """Contexts of random patches with parents and references.

    Args:
        world: the slides.
        summarizer: frozen summarizer.
    """

    def __init__(self, world: EmbeddedSlides, summarizer: CNNSummarizer) -> None:
        self.world, self.summarizer = world, summarizer
        found = [world.patches(level) for level in range(COUNT)]
        self.starts, self.withheld = [f[0] for f in found], [f[1] for f in found]
        self.half = world.device.type == "cuda"
        self.half = self.half and self._digits() < 0.02
        outline = summarizer.outline
        self.channels = outline.channels if outline is not None else 0

    @torch.no_grad()
    def draw(self, level: int, count: int, parents: float, withheld: bool = False) -> Items:
        """Draw random items of a level.

        At levels finer than 2.5x a patch starts at any token of its first tile. A parent lies as
        in sampling: its first token or its middle one over the child's first, or, as for
        overlapping windows, half a token before that.

        Args:
            level: 0 to 7.
            count: number of items.
            parents: fraction of items with a parent, unless that is withheld.
            withheld: draw withheld patches, whose parents may be withheld, too.
        """
        world, device = self.world, self.world.device
        pool = self.withheld[level] if withheld else self.starts[level]
        slide, r, c = pool[torch.randint(len(pool), (count,), device=device)].unbind(1)
        tokens = SIDE >> level  # tokens per side of a tile, 0 coarser than 2.5x
        first = torch.stack([r, c], 1)
        if tokens > 1:
            shift = torch.randint(tokens, (count, 2), device=device)
            if not withheld:
                shift = shift * ~world.withheld(level, slide, r, c, more=1)[:, None]
            first = first * tokens + shift
        contexts = self._contexts(level, slide, first)
        above = torch.zeros_like(contexts[:, : SIDE**2 // 4])
        given = round(parents * count) if level < COUNT - 1 else 0
        if given:
            above[:given] = self._parents(level, slide[:given], first[:given], withheld)
        references = world.references(level, slide, r, c)
        levels = torch.full((count,), level, device=device)
        return Items(contexts, above, references.half(), levels)

    def _contexts(self, level: int, slide: Tensor, first: Tensor) -> Tensor:
        """Contexts (n, 64, width) float16 of windows at tokens (finer than 2.5x) or tiles."""
        tokens, side, parts = SIDE >> level, patch_tiles(level), []
        for start in range(0, len(slide), CHUNK[level]):
            own, at = slide[start : start + CHUNK[level]], first[start : start + CHUNK[level]]
            tile = at.div(tokens, rounding_mode="floor") if tokens > 1 else at
            shift = at - tile * tokens if tokens > 1 else None
            grid = self.world.grids(own, tile[:, 0], tile[:, 1], side + (tokens > 1))
            levels = torch.full_like(own, level)
            with torch.autocast(grid.device.type, torch.float16, enabled=self.half):
                parts.append(self.summarizer(grid, levels, shift).half())
        return torch.cat(parts)

    def _digits(self) -> float:
        """Largest relative error over levels of contexts computed in float16."""
        worst = 0.0
        for level, starts in enumerate(self.starts):
            tokens = SIDE >> level
            slide, first = starts[:16, 0], starts[:16, 1:] * max(tokens, 1)
            found = []
            for self.half in (True, False):
                with torch.no_grad():
                    found.append(self._contexts(level, slide, first).float())
            apart = (found[0] - found[1]).square().mean((0, 1)).sqrt()
            error = float((apart / found[1].std((0, 1)).clamp(min=1e-4)).mean())
            worst = max(worst, error if error == error else 1.0)
        print(f"summarizer in float16: relative error at most {worst:.4f}", flush=True)
        return worst

    def _parents(self, level: int, slide: Tensor, first: Tensor, withheld: bool) -> Tensor:
        """Tokens (n, 16, width) of parents over windows, zeros if the parent is withheld."""
        pick = torch.randint(5, first.shape, device=first.device)
        offset = torch.tensor([0, 0, 7, 8, 8], device=first.device)[pick]  # in child tokens
        if level < 3:  # a parent starts at one of its tokens, which are two child tokens
            whole = torch.where(pick < 3, 0, 8)
            offset = torch.where(first % 2 == 0, whole, 7)
            start = (first - offset).div(2, rounding_mode="floor")
            per = max(SIDE >> (level + 1), 1)
            tile = start.div(per, rounding_mode="floor")
        else:
            tile = start = first - offset * (patch_tiles(level) // SIDE)
        contexts = self._contexts(level + 1, slide, start)
        soft = softened(contexts.float(), self.channels).half()
        chosen = torch.rand(len(slide), device=first.device) < SOFT
        contexts = torch.where(chosen[:, None, None], soft, contexts)
        out = quarters(contexts, offset)
        if withheld:
            return out
        away = self.world.withheld(level + 1, slide, *tile.unbind(1), more=int(level < 2))
        return out * ~away[:, None, None]


def quarters(contexts: Tensor, offset: Tensor) -> Tensor:
    """Tokens (n, 16, width) of parents (n, 64, width) that a child lies over.

    Args:
        contexts: contexts of the parents.
        offset: (n, 2) child tokens from the parent's start to the child's, 0 to 8; an odd offset
            lies between two parent tokens, which are averaged.
    """
    out = contexts.unflatten(1, (SIDE, SIDE))
    cells = torch.arange(SIDE // 2, device=contexts.device)
    near, far = offset.div(2, rounding_mode="floor"), (offset + 1).div(2, rounding_mode="floor")
    item = torch.arange(len(out), device=out.device)[:, None]
    out = (out[item, near[:, :1] + cells] + out[item, far[:, :1] + cells]) / 2
    out = (out[item, :, near[:, 1:] + cells] + out[item, :, far[:, 1:] + cells]) / 2
    return out.transpose(1, 2).flatten(1, 2)


def as_tensor(value: Any) -> Any:
    """Convert an array to a tensor; anything else is returned as it is."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _starts(sizes: Tensor) -> Tensor:
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])


def _sums(mask: Tensor) -> Tensor:
    out = torch.zeros(mask.shape[0] + 1, mask.shape[1] + 1, dtype=torch.int32, device=mask.device)
    out[1:, 1:] = mask.int().cumsum(0).cumsum(1)
    return out
