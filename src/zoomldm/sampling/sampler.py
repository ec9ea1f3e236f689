"""New tissue: a context sampled by the embedding diffusion, then an image under it."""

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.diffusion.schedule import Schedule, make_schedule
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation.batch import make_pixels, octave_pixels, upsampled_quarter
from zoomldm.generation.contexts import (
    check_conditions,
    context_noise,
    draw_contexts,
    image_noise,
)
from zoomldm.generation.octaves import LAST, octave_times
from zoomldm.geometry.levels import COARSEST, COUNT, NAMES, TILE
from zoomldm.networks.context_dit import matching_quarter
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.sampling.options import SampleOptions

Pixels = NDArray[np.uint8]
_NEEDED = ("unet", "vae", "summarizer", "scheduler")


class Sampler:
    """Samples of a pipeline: sample i depends only on pipeline, options, level and i.

    Samples are generated in batches of exactly `batch`, and a batch always has the same members.
    So neither the number of samples nor that of processes changes a bit (torch's thread count or
    version may change the last bits).

    Args:
        pipeline: a pipeline with an embedding diffusion.
        options: see SampleOptions.
        on_image: called after each batch with the number of images in it.

    Raises:
        PipelineError: a pipeline that can't sample contexts.
        ConfigError: options that the pipeline doesn't support.
    """

    def __init__(
        self,
        pipeline: ZoomLDMPipeline,
        options: SampleOptions | None = None,
        on_image: Callable[[int], None] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.options = options or SampleOptions()
        self._octaves = isinstance(pipeline.unet, OctaveDenoiser)
        self.drawing = self.options.drawing(self._octaves)
        self.on_image = on_image
        missing = [n for n in _NEEDED if getattr(pipeline, n) is None]
        if missing:
            raise PipelineError(
                f"pipeline has no {', '.join(missing)}; sampling needs all networks"
            )
        if self._octaves:
            self._times = octave_times(pipeline.unet.alphas, self.drawing.steps)
        else:
            self._whole = make_schedule(pipeline.scheduler, self.drawing.steps)
        self.batch = self.options.batch_on(pipeline.device)
        guidance = self.options.guidance_of_contexts(asked=False)
        check_conditions(pipeline.embedding_diffusion, guidance)
        self.context_shape = tuple(pipeline.summarizer.context_shape)

    def sample(
        self,
        level: int,
        n: int,
        first: int = 0,
        reference: NDArray | Tensor | None = None,
        label: str | None = None,
    ) -> Pixels:
        """Samples first..first + n - 1 of a level, (n, 256, 256, 3) uint8 sRGB.

        Args:
            level: 0 (20x) to 7 (0.15625x).
            n: number of samples, 1 or more.
            first: number of the first sample.
            reference: (D,) embedding of a tile that the tissue should resemble, or (n, D).
            label: one of the embedding diffusion's labels.
        """
        contexts = self.contexts(level, n, first, reference, label)
        return self.images(level, contexts, first)

    def contexts(
        self,
        level: int,
        n: int,
        first: int = 0,
        reference: NDArray | Tensor | None = None,
        label: str | None = None,
        parent: Tensor | None = None,
    ) -> Tensor:
        """Contexts (n, tokens, width) of samples; `parent` (n, tokens / 4, width).

        Raises:
            ConfigError: an invalid level, number, reference or label.
        """
        _check(level, n, first)
        self.pipeline.check_level(level)
        pipeline, options = self.pipeline, self.options
        given = None if reference is None else self._references(reference, n)
        network = pipeline.embedding_diffusion
        guidance = options.guidance_of_contexts(given is not None or label is not None)
        check_conditions(network, guidance, given is not None, parent is not None, label)
        parts = []
        for numbers, rows in self._batches(n, first):
            noise = [context_noise(options.seed, level, i, self.context_shape) for i in numbers]
            sampled = draw_contexts(
                network,
                level,
                torch.stack(noise).to(pipeline.device),
                options.context_steps,
                guidance,
                None if given is None else given[rows],
                None if parent is None else parent[rows],
                label,
                pipeline.outline_channels,
            )
            parts.append(sampled)
        return self._cut(torch.cat(parts), n, first)

    def images(
        self, level: int, contexts: Tensor, first: int = 0, starts: Pixels | None = None
    ) -> Pixels:
        """Images (n, 256, 256, 3) uint8 under contexts (n, tokens, width).

        Args:
            level: level of the samples.
            contexts: contexts of the samples.
            first: number of the first sample.
            starts: images (n, 256, 256, 3) uint8 to start from, given noise up to
                `options.start`.
        """
        n = len(contexts)
        _check(level, n, first)
        pipeline, options = self.pipeline, self.options
        shape, at = pipeline.latent_shape, LAST if self._octaves else self._whole.first
        begin = None
        if starts is not None:
            begin = torch.from_numpy(starts).permute(0, 3, 1, 2)
            at = LAST if self._octaves else self._begun.first
        parts = []
        for numbers, rows in self._batches(n, first):
            noise = [image_noise(options.seed, level, at, i, shape) for i in numbers]
            epsilon = torch.stack(noise).to(pipeline.device)
            with options.autocast(pipeline.device):
                generated = self._draw(
                    level, contexts[rows], epsilon, None if begin is None else begin[rows]
                )
            parts.append(generated)
            if self.on_image:
                self.on_image(sum(first <= i < first + n for i in numbers))
        return self._cut(np.concatenate(parts), n, first)

    @cached_property
    def _begun(self) -> Schedule:
        """Of images that start from others."""
        return make_schedule(self.pipeline.scheduler, self.drawing.steps, self.drawing.start)

    def _draw(self, level: int, context: Tensor, noise: Tensor, begin: Tensor | None) -> Pixels:
        """One batch, from images (B, 3, 256, 256) uint8 or from noise alone."""
        model, chosen = self.pipeline, self.drawing
        if not self._octaves:
            schedule = self._whole if begin is None else self._begun
            return make_pixels(model, schedule, chosen.guidance, context, noise, begin, level)
        signed = None if begin is None else begin.to(model.device).float().div(127.5).sub(1)
        return octave_pixels(model, self._times, chosen.guidance, context, noise, signed, level)

    def zoom(
        self,
        n: int,
        first: int = 0,
        reference: NDArray | Tensor | None = None,
        label: str | None = None,
    ) -> tuple[dict[int, Pixels], dict[int, NDArray]]:
        """Zoom into imaginary slides, 0.15625x to 20x, always into the quarter with most tissue.

        The coarsest images are those of `sample`. Each finer one starts from the quarter of the
        image above, upsampled and given noise up to `options.start`, under a context that was
        sampled given that quarter's tokens of the context above.

        Returns:
            Images (n, 256, 256, 3) by level, and by level the quarter (n, 2) of the image above,
            row and column, that each shows (none for the coarsest).

        Raises:
            ConfigError: an embedding diffusion that takes no parent.
        """
        network = self.pipeline.embedding_diffusion
        guidance = self.options.guidance_of_contexts(reference is not None or label is not None)
        check_conditions(network, guidance, reference is not None, True, label)
        coarsest = min(COARSEST, self.pipeline.levels - 1)
        context = self.contexts(coarsest, n, first, reference, label)
        images = {coarsest: self.images(coarsest, context, first)}
        quarters: dict[int, NDArray] = {}
        for level in reversed(range(coarsest)):
            above = images[level + 1]
            quarters[level] = np.array([fullest_quarter(p) for p in above])
            row, col = torch.from_numpy(quarters[level]).unbind(1)
            parent = matching_quarter(context, row, col)
            context = self.contexts(level, n, first, reference, label, parent)
            pairs = zip(above, quarters[level].tolist(), strict=True)
            starts = np.stack([upsampled_quarter(p, r, c) for p, (r, c) in pairs])
            images[level] = self.images(level, context, first, starts)
        return images, quarters

    def _references(self, reference: NDArray | Tensor, n: int) -> Tensor:
        given = torch.as_tensor(reference).float().to(self.pipeline.device)
        dim = self.pipeline.embedding_dim
        if given.shape not in ((dim,), (n, dim)):
            raise ConfigError(
                f"reference of shape {tuple(given.shape)}; expected ({dim},) or ({n}, {dim})"
            )
        return given.expand(n, dim)

    def _batches(self, n: int, first: int) -> Iterator[tuple[range, list[int]]]:
        """Full batches: the numbers of their samples, and for each its row among the n wanted.

        Unwanted samples repeat the first or last row; they are dropped.
        """
        for start in range(first - first % self.batch, first + n, self.batch):
            numbers = range(start, start + self.batch)
            yield numbers, [min(max(i - first, 0), n - 1) for i in numbers]

    def _cut(self, values, n: int, first: int):
        before = first % self.batch
        return values[before : before + n]


def fullest_quarter(image: Pixels) -> tuple[int, int]:
    """Row and column (0 or 1) of the quarter with most tissue: the darkest in green.

    Both haematoxylin and eosin absorb green. Ties go to the first in reading order.
    """
    half = TILE // 2
    green = image[..., 1].astype(np.int64).reshape(2, half, 2, half).sum((1, 3))
    row, col = divmod(int(green.argmin()), 2)
    return row, col


def _check(level: int, n: int, first: int) -> None:
    if not 0 <= level < COUNT:
        raise ConfigError(f"level {level} does not exist; expected 0 ({NAMES[0]}) to {COUNT - 1}")
    if n < 1 or first < 0:
        raise ConfigError(f"{n} samples from number {first}; expected at least one, from 0 on")
