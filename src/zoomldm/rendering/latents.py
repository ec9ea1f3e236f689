"""The latents of an archive: windows that the denoiser makes, each after its ancestors."""

import threading
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from zoomldm.archive import Archive
from zoomldm.diffusion.noise import noise
from zoomldm.generation.grids import WHOLE, window_grid
from zoomldm.generation.imagined import ImaginedContexts
from zoomldm.generation.octaves import (
    ALONE_NOISE,
    DRAWN_NOISE,
    PARENT_NOISE,
    Known,
    codec_loss,
    corrected,
    make_latents,
    octave_times,
    smoothed,
    under_parent,
)
from zoomldm.generation.options import ResolvedOptions
from zoomldm.generation.windows import (
    CELL,
    SIDE,
    STRIDE,
    Field,
    Key,
    blended,
    keys_over,
    tiles_under,
    window_count,
    windows_over,
)
from zoomldm.generation.workers import side_by_side
from zoomldm.geometry.levels import level_size
from zoomldm.networks.lowpass import LowPassAutoencoder, Planes, coarse_planes, enlarged
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT, OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_signed
from zoomldm.rendering.kept import Kept

RESTORED = 3  # base layers up to this many levels above 5x are freed from their codec's loss
DRAWN = 4  # level whose latents are drawn from their context where there is no base layer


class Latents:
    """Latents of the levels 0 to `top` as planes, made window by window when they are asked for.

    Safe to share between threads: one at a time runs the networks, and what is kept is had
    without waiting.

    Args:
        archive: whose.
        pipeline: its denoiser takes a hint, its autoencoder has planes.
        options: with nothing left open.
        kept: where windows are kept.
        lock: held while the networks run.
        on_patch: called after each batch with the number of windows that it made.

    Attributes:
        top: coarsest level of latents; those come from the base layer, or from noise.
        times: timesteps of the denoiser.
        batch: windows per call of a network.
        made: windows made so far, at each level.
    """

    def __init__(
        self,
        archive: Archive,
        pipeline: ZoomLDMPipeline,
        options: ResolvedOptions,
        kept: Kept,
        lock: threading.RLock,
        on_patch: Callable[[int], None] | None = None,
    ) -> None:
        assert isinstance(pipeline.unet, OctaveDenoiser)
        assert isinstance(pipeline.vae, LowPassAutoencoder)
        self.archive, self.pipeline, self.options = archive, pipeline, options
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.base = archive.base
        self.times = octave_times(self.unet.alphas, options.steps, options.start)
        self.batch = options.batch_on(pipeline.device)
        self.imagined: ImaginedContexts | None = None
        if facts := archive.manifest.generated:
            self.imagined = ImaginedContexts(facts, pipeline, self.batch)
        drawn = self.imagined.coarsest if self.imagined else DRAWN
        self._loose = DRAWN_NOISE if self.imagined else None if self.base else ALONE_NOISE
        self.top = max(self.base.level - 2, 0) if self.base else drawn
        self.made = [0] * (self.top + 1)
        self._mask = archive.mask
        self._kept, self._lock, self._on_patch = kept, lock, on_patch

    def counts(self, level: int) -> tuple[int, int]:
        """Windows along rows and columns at a level."""
        width, height = level_size(*self.archive.size, level + 2)
        return window_count(height), window_count(width)

    def field(self, level: int, top: int, left: int, height: int, width: int) -> Planes:
        """Planes of a level over a region, in pixels of level + 2, all even.

        Beyond the slide's edge the nearest values are repeated.
        """
        windows = self.windows(level, keys_over(top, left, height, width, self.counts(level)))
        return self.blended(level, windows, top, left, height, width)

    def blended(
        self,
        level: int,
        windows: Mapping[Key, Field],
        top: int,
        left: int,
        height: int,
        width: int,
    ) -> Planes:
        """Planes over a region from windows that are at hand; see `field`."""
        return _planes(blended(windows, top, left, height, width, self.counts(level)))

    def denoised(self, level: int, key: Key) -> bool:
        """Whether the denoiser makes a window: where any tile that it overlaps is tissue."""
        if self.base is not None and level == self.top >= RESTORED:
            return False  # it is the base layer as it is
        return bool(self._mask[tiles_under(level, key)].any())

    def parents(self, level: int, rows: range, cols: range) -> list[range]:
        """Rows and columns of the level above that a block of windows needs."""
        return [
            windows_over(r.start * STRIDE // 2, (r.stop - 1) * STRIDE // 2 + SIDE // 2, n)
            for r, n in zip((rows, cols), self.counts(level + 1), strict=True)
        ]

    def windows(self, level: int, keys: Iterable[Key]) -> dict[Key, Field]:
        """Windows of a level, made where they are not at hand, with all their ancestors."""
        found, missing = self._at_hand(level, keys)
        if missing:
            with self._lock:  # another thread may have made them while this one waited
                others, missing = self._at_hand(level, missing)
                found |= others
                if missing:
                    found |= self._made_now(level, missing)
        return found

    def _at_hand(self, level: int, keys: Iterable[Key]) -> tuple[dict[Key, Field], list[Key]]:
        found: dict[Key, Field] = {}
        missing: list[Key] = []
        for key in keys:
            window = self._kept.get("window", level, *key)
            if isinstance(window, Field):
                found[key] = window
            else:
                missing.append(key)
        return found, missing

    def _made_now(self, level: int, missing: list[Key]) -> dict[Key, Field]:
        found: dict[Key, Field] = {}
        parents: dict[Key, Field] = {}
        if level < self.top:
            half, counts = SIDE // 2, self.counts(level + 1)
            needed = {
                k: None
                for i, j in missing
                for k in keys_over(i * STRIDE // 2, j * STRIDE // 2, half, half, counts)
            }
            parents = self.windows(level + 1, needed)
        drawn = [key for key in missing if self.denoised(level, key)]
        plain = [key for key in missing if key not in set(drawn)]
        for key in plain:
            found[key] = window = self._plain(level, key, parents)
            self._kept.put("window", level, *key, value=window)
        parts = [drawn[i : i + self.batch] for i in range(0, len(drawn), self.batch)]
        device = self.pipeline.device
        made = side_by_side(lambda part: self._drawn(level, part, parents), parts, device)
        for part, fields in zip(parts, made, strict=True):
            for key, window in zip(part, fields, strict=True):
                found[key] = window
                self._kept.put("window", level, *key, value=window, lasting=True)
            self.made[level] += len(part)
            if self._on_patch:
                self._on_patch(len(part))
        return found

    def _parent(self, level: int, key: Key, parents: Mapping[Key, Field]) -> Planes:
        half = SIDE // 2
        top, left = key[0] * STRIDE // 2, key[1] * STRIDE // 2
        return self.blended(level + 1, parents, top, left, half, half)

    def _stored(self, level: int, key: Key) -> Planes:
        """Planes of the base layer under a window."""
        assert self.base is not None
        place = key[1] * STRIDE, key[0] * STRIDE
        return coarse_planes(to_signed(self.base.read_level(level + 2, *place, SIDE, SIDE)[None]))

    def _plain(self, level: int, key: Key, parents: Mapping[Key, Field]) -> Field:
        """A window without tissue: what is known of it, or white."""
        if level < self.top:
            return _field(smoothed(self._parent(level, key, parents)))
        if self.base is not None:
            return _field(self._stored(level, key))
        return _field(coarse_planes(torch.ones(1, 3, SIDE, SIDE)))

    @torch.no_grad()
    def _drawn(self, level: int, keys: list[Key], parents: Mapping[Key, Field]) -> list[Field]:
        """Up to one batch of windows by the denoiser."""
        device = self.pipeline.device
        above: Planes | None = None
        kind, hint, loss = NONE, None, 0.0
        if level < self.top:
            kind, loss = PARENT, PARENT_NOISE
            above = _stack([self._parent(level, key, parents) for key in keys], self.batch)
            hint = self.vae.from_planes(Planes(*(p.to(device) for p in enlarged(above))))
        elif self.base is not None:
            stored = _stack([self._stored(level, key) for key in keys], self.batch)
            kind, loss = BASE, codec_loss(self.base.codec, self.base.quality)
            hint = self.vae.from_planes(Planes(*(p.to(device) for p in stored)))
        context = self._contexts(level, keys, hint)
        known = Known(level, context, kind, hint, loss)
        drawn = _filled([self._noise(level, key) for key in keys], self.batch).to(device)
        if hint is not None and above is not None and self._loose is not None:
            known, above = under_parent(level, context, hint, drawn, self._loose), None
        with self.options.autocast(device):
            latents = make_latents(self.unet, known, drawn, self.times, self.options.guidance)
            planes = self.vae.to_planes(latents.float())
        planes = Planes(*(p.cpu() for p in planes))
        if above is not None:
            planes = corrected(planes, above)
        return [_field(planes, i) for i in range(len(keys))]

    def _noise(self, level: int, key: Key) -> Tensor:
        y, x = (place * STRIDE // CELL for place in key)
        shape = self.pipeline.latent_shape
        return torch.from_numpy(noise(self.options.seed, level, self.times[0], y, x, shape))

    def _contexts(self, level: int, keys: list[Key], hint: Tensor | None = None) -> Tensor:
        """Contexts of up to one batch; `hint` is what is known of them, laid out as latents."""
        if self.imagined is not None:
            drawn = self.imagined.windows(level, keys)
            return _filled(list(drawn), self.batch)
        found = [window_grid(self.archive, level, key) for key in keys]
        grids = _filled([torch.from_numpy(grid) for grid, _ in found], self.batch)
        shifts = [shift for _, shift in found]
        shift = torch.tensor(shifts + [shifts[-1]] * (self.batch - len(shifts)))
        return self.pipeline.context(grids, level, shift if level < WHOLE else None)


def _planes(field: Field) -> Planes:
    return Planes(torch.from_numpy(field.luma)[None, None], torch.from_numpy(field.chroma)[None])


def _field(planes: Planes, index: int = 0) -> Field:
    """One of a batch, copied: what is kept would keep the whole batch."""
    luma, chroma = planes.luma[index, 0], planes.chroma[index]
    return Field(luma.float().numpy().copy(), chroma.float().numpy().copy())


def _stack(parts: list[Planes], count: int) -> Planes:
    parts = parts + [parts[-1]] * (count - len(parts))
    return Planes(*(torch.cat([p[k] for p in parts]) for k in range(2)))


def _filled(parts: list[Tensor], count: int) -> Tensor:
    """One batch of just `count`, the last part repeated."""
    return torch.stack(parts + [parts[-1]] * (count - len(parts)))
