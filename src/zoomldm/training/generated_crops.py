"""Crops whose low image comes from a pipeline's denoiser, as the decoder meets it in an archive."""

from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray

from zoomldm.archive.base import halve
from zoomldm.data.coded import as_base_layer
from zoomldm.data.crops import BLOCK, Crops, CropSource
from zoomldm.data.slide_patches import SlidePatches
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation.octaves import Known, codec_loss, make_planes, octave_times
from zoomldm.generation.options import DEFAULTS, STEPS_RESTORED
from zoomldm.geometry.levels import TILE
from zoomldm.geometry.orientation import TURNS, turn_array
from zoomldm.networks.lowpass import coarse_planes, planes_image
from zoomldm.networks.octave_denoiser import BASE, OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels, to_signed

QUALITIES = (24, 60)  # codec qualities that `compress` chooses from
EACH = 3  # crops per patch
MARGIN = 32  # px around a patch that the codec also sees, here mirrored


class GeneratedCrops:
    """Crops at 20x, a fraction of them with a generated low image; the rest from another source.

    A tile goes through the codec at 5x as a base layer; the denoiser removes the codec's loss,
    conditioned on the tile's embedding; its output is the low image of a few crops of the tile. For
    a decoder that learns to restore that is the first prediction, the mean of the possible ones.
    No state is kept between draws, so that a resumed run draws the same crops.

    Args:
        patches: patches, of which those at 20x are used; whole tiles.
        pipeline: its patch encoder, summarizer and denoiser, frozen.
        exact: source of the other crops.
        fraction: fraction of the crops, 0 to 1, whose low image is generated.

    Raises:
        PipelineError: the pipeline's denoiser is not an octave denoiser.
        ConfigError: no patches at 20x.
    """

    def __init__(
        self, patches: SlidePatches, pipeline: ZoomLDMPipeline, exact: CropSource, fraction: float
    ) -> None:
        if not isinstance(pipeline.unet, OctaveDenoiser):
            raise PipelineError(
                "this pipeline's denoiser makes no low images; train stage diffusion first, and "
                "name its pipeline with --pipeline and --finetune"
            )
        self.patches, self.pipeline, self.exact, self.fraction = patches, pipeline, exact, fraction
        self.places = patches.at_level(0)
        if not len(self.places):
            raise ConfigError("there are no patches at 20x, which low images are generated from")
        steps = DEFAULTS["pyramid"][0] if pipeline.vae.texture is None else STEPS_RESTORED
        self.times = octave_times(pipeline.unet.alphas, steps)
        self.vae = deepcopy(pipeline.vae)  # the trained one may move to another device

    def draw(self, rng: np.random.Generator, count: int, side: int) -> Crops:
        """See `CropSource.draw`; up to 256 px."""
        generated_count = round(count * self.fraction)
        parts = []
        if generated_count:
            parts.append(self._generated(rng, generated_count, side))
        if count > generated_count:
            parts.append(self.exact.draw(rng, count - generated_count, side))
        return Crops(
            np.concatenate([p.images for p in parts]),
            np.concatenate([p.low for p in parts]),
            np.concatenate([p.levels for p in parts]),
            np.arange(count) < generated_count,
        )

    def _generated(self, rng: np.random.Generator, count: int, side: int) -> Crops:
        chosen = rng.choice(self.places, -(-count // EACH))
        tiles = np.stack(
            [
                np.ascontiguousarray(
                    turn_array(self.patches.read(int(i)), int(rng.integers(TURNS)))
                )
                for i in chosen
            ]
        )
        wholes = self.lows(tiles, rng)
        images, low = [], []
        for k in range(count):
            y, x = rng.integers(0, (TILE - side) // BLOCK + 1, 2) * BLOCK
            images.append(tiles[k // EACH, y : y + side, x : x + side])
            y, x, small = y // 4, x // 4, side // 4
            low.append(wholes[k // EACH, y : y + small, x : x + small])
        return Crops(np.stack(images), np.stack(low), np.zeros(count, np.int64))

    @torch.no_grad()
    def lows(self, tiles: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Denoised low images of tiles (n, 256, 256, 3) stored at 5x: (n, 64, 64, 3)."""
        model, device = self.pipeline, self.pipeline.device
        quality = round(rng.uniform(*QUALITIES))
        sides = ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
        lows = [np.pad(halve(tile, 2), sides, mode="reflect") for tile in tiles]
        stored = np.stack([as_base_layer(low, quality, MARGIN, speed=6) for low in lows])
        embeddings = torch.from_numpy(model.encode_tiles(tiles))
        hint = self.vae.from_planes(coarse_planes(to_signed(stored).to(device)))
        known = Known(
            0,
            model.context(embeddings[:, None, None], 0),
            BASE,
            hint,
            codec_loss("avif", quality),
        )
        noise = torch.from_numpy(rng.standard_normal(tuple(hint.shape), np.float32)).to(device)
        planes = make_planes(model.unet, self.vae, known, noise, self.times)
        return to_pixels(planes_image(planes))
