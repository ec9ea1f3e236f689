"""ZoomLDMPipeline: a trained model, and the calls that everything else makes on it."""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from zoomldm.diffusion.guidance import guided
from zoomldm.diffusion.schedule import GUIDANCE, SPACING, STEPS, make_schedule
from zoomldm.errors import PipelineError
from zoomldm.geometry.levels import COUNT, NAMES, TILE
from zoomldm.networks.digest import component_digest, component_mark
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.networks.precision import dtype_of, fitted, widened

PARTS = (
    *("unet", "vae", "summarizer", "patch_encoder"),
    *("embedding_diffusion", "context_network"),
)
FORMAT = 2  # of model_index.json; older files store schedulers with another timestep spacing


@dataclass(frozen=True)
class ZoomLDMOutput:
    """Output of a pipeline's call, as in diffusers.

    Can be indexed, iterated and converted to an array like the images themselves.

    Attributes:
        images: a list of n PIL images, or an array or tensor whose first axis is n.
    """

    images: Any

    def __getitem__(self, place: Any) -> Any:
        return self.images if place == "images" else self.images[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        images = self.images
        if isinstance(images, list):
            images = np.stack([np.asarray(image) for image in images])
        return np.array(images, dtype) if copy else np.asarray(images, dtype)


class ZoomLDMPipeline(DiffusionPipeline):
    """All networks of one trained system in diffusers' layout.

    Args:
        unet: the denoiser, `unet(latents, time, context)`.
        vae: the autoencoder, `encode` and `decode`.
        summarizer: `summarizer(grid, level)` to a context.
        patch_encoder: tiles (B, 3, 256, 256) in [0, 1] to embeddings (B, D).
        scheduler: any diffusers scheduler; its configuration holds the schedule.
        embedding_diffusion: samples contexts; None if there is none.
        context_network: predicts contexts from images; None if there is none.
        source: what it was converted from, and the patch encoder of the archives that it was
            trained on if the pipeline doesn't contain it; None for neither.
        format: format of the `model_index.json` it was loaded from; `save_pretrained` sets it.
    """

    model_cpu_offload_seq = (
        "patch_encoder->summarizer->embedding_diffusion->context_network->unet->vae"
    )

    _optional_components: ClassVar[list[str]] = [
        "unet",
        "vae",
        "summarizer",
        "patch_encoder",
        "scheduler",
        "embedding_diffusion",
        "context_network",
    ]

    def __init__(
        self,
        unet: Any,
        vae: Any,
        summarizer: Any,
        patch_encoder: Any,
        scheduler: Any,
        embedding_diffusion: Any = None,
        context_network: Any = None,
        source: dict[str, Any] | None = None,
        format: int | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet,
            vae=vae,
            summarizer=summarizer,
            patch_encoder=patch_encoder,
            scheduler=scheduler,
            embedding_diffusion=embedding_diffusion,
            context_network=context_network,
        )
        self.register_to_config(source=source, format=format)
        for name in PARTS:
            network = getattr(self, name)
            if isinstance(network, nn.Module):
                network.eval().requires_grad_(False)
        self._digests: dict[str, tuple[Hashable, str]] = {}
        self._rounded: dict[str, tuple[int, str]] = {}

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """Load as diffusers does; `dtype=torch.bfloat16` for half precision."""
        pipeline = super().from_pretrained(*args, **kwargs)
        if pipeline.config["format"] is None and type(pipeline.scheduler) is DDIMScheduler:
            # Its file says "leading", but no verb ever spaced its timesteps that way.
            config = {**pipeline.scheduler.config, "timestep_spacing": SPACING}
            pipeline.scheduler = DDIMScheduler.from_config(config)
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, without the paths that its networks were loaded from."""
        self.register_to_config(format=FORMAT)
        super().save_pretrained(save_directory, *args, **kwargs)
        for file in Path(save_directory).rglob("*.json"):
            settings = json.loads(file.read_text())
            if settings.pop("_name_or_path", None) is not None:
                file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device or dtype, as diffusers does.

        Embeddings and latents of archives made before their networks were rounded to half
        precision stay valid: `digest_before_rounding` remembers the original digests.
        """
        digests = {}
        if any(isinstance(v, torch.dtype) for v in (*args, *kwargs.values())):
            digests = {n: self.digest(n) for n in ("patch_encoder", "vae") if getattr(self, n)}
        noted = logging.get_verbosity()
        logging.set_verbosity_error()  # it warns of modules to keep in float32 without naming any
        try:
            super().to(*args, **kwargs)
        finally:
            logging.set_verbosity(noted)
        for name, digest in digests.items():
            if digest != self.digest(name):
                self._rounded.setdefault(name, (id(getattr(self, name)), digest))
        return self

    def digest_before_rounding(self, name: str) -> str | None:
        """Digest that a network had before `to` rounded it; None if it was not rounded."""
        part, digest = self._rounded.get(name, (None, None))
        return digest if part == id(getattr(self, name)) else None

    @property
    def levels(self) -> int:
        """Number of levels, from 20x on, that it was trained for: 8 or fewer."""
        return int(self._part("summarizer").config.get("levels", COUNT))

    def check_level(self, level: int) -> None:
        """Refuse a level that does not exist, or that this pipeline does not know.

        Raises:
            PipelineError: names the levels that it knows.
        """
        if not 0 <= level < COUNT:
            raise PipelineError(f"level {level} does not exist; expected 0 to {COUNT - 1}")
        if level >= self.levels:
            raise PipelineError(
                f"pipeline knows the {self.levels} levels {NAMES[0]} to {NAMES[self.levels - 1]}, "
                f"not {NAMES[level]}; name one of those, or another pipeline"
            )

    @property
    def embedding_dim(self) -> int:
        """D, length of an embedding."""
        return int(self.summarizer.config["dim"])

    @property
    def outline_channels(self) -> int:
        """Channels of the latents whose outline contexts begin with; 0 for none."""
        return int(self.summarizer.config.get("outline_channels", 0))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of a patch's latents."""
        side = TILE // self.vae.factor
        return int(self.vae.config["latent_channels"]), side, side

    def digest(self, *components: str) -> str:
        """SHA-256 over configuration and weights of the named components (all if none)."""
        every = (*PARTS[:4], "scheduler", *PARTS[4:])
        names = components or [n for n in every if getattr(self, n) is not None]
        return hashlib.sha256("".join(self._digest(n) for n in names).encode()).hexdigest()

    def _digest(self, name: str) -> str:
        """Digest of a component as it is now; it changes with swapping, training or rounding."""
        part = self._part(name)
        mark = component_mark(part)
        held = self._digests.get(name)
        if held is None or held[0] != mark:
            held = self._digests[name] = mark, component_digest(part)
        return held[1]

    def _part(self, name: str) -> Any:
        part = getattr(self, name)
        if part is None:
            todo = "; name a patch encoder with --encoder" if name == "patch_encoder" else ""
            raise PipelineError(f"pipeline has no {name.replace('_', ' ')}{todo}")
        return part

    @torch.no_grad()
    def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Embed tiles (n, 256, 256, 3) uint8 sRGB: (n, D) float32."""
        x = torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2)
        x = x.to(self.device).float().div_(255)
        encoder = self._part("patch_encoder")
        return encoder(fitted(x, encoder)).float().cpu().numpy()

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Images (n, 3, 256, 256) in [-1, 1] to latents (n, C, h, w)."""
        return widened(self.vae.encode(fitted(images, self.vae)), self.vae)

    @torch.no_grad()
    def decode_latents(
        self, latents: Tensor, level: int | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Latents (n, C, h, w) to images (n, 3, 256, 256), clamped to [-1, 1].

        Args:
            latents: the latents to decode.
            level: level of the patches, if the autoencoder distinguishes levels; None for 20x.
            noise: (n, noise_channels, h, w) standard normal, if the decoder takes any.
        """
        latents = fitted(latents, self.vae)
        if not isinstance(self.vae, LowPassAutoencoder):
            return self.vae.decode(latents).float().clamp(-1, 1)
        levels = torch.full((len(latents),), level or 0, device=latents.device)
        noise = None if noise is None else fitted(noise, self.vae)
        return self.vae.decode(latents, noise, levels).float().clamp(-1, 1)

    @property
    def device(self) -> torch.device:
        """Device of the denoiser; read for every batch, so faster than diffusers' search of all."""
        return next(self.unet.parameters()).device

    @torch.no_grad()
    def context(
        self, grids: Tensor | np.ndarray, level: int, shifts: Tensor | None = None
    ) -> Tensor:
        """Summarise grids of raw embeddings.

        Args:
            grids: (n, s, s, D), s = 2**level; one more tile per side with `shifts`.
            level: 0..7.
            shifts: (n, 2) tokens, see `CNNSummarizer.forward`.

        Returns:
            (n, tokens, width).

        Raises:
            PipelineError: a level that the pipeline does not know, or grids of another shape.
        """
        self.check_level(level)
        grids = torch.as_tensor(grids).to(self.device)
        side = 2**level + (shifts is not None)
        if grids.shape[1:] != (side, side, self.embedding_dim):
            raise PipelineError(
                f"grid of shape {tuple(grids.shape)}; level {NAMES[level]} needs "
                f"(n, {side}, {side}, {self.embedding_dim})"
            )
        levels = torch.full((len(grids),), level, device=self.device)
        if shifts is not None:
            return self.summarizer(grids, levels, shifts)
        return self.summarizer(grids, levels)

    def denoise(
        self,
        context: Tensor,
        guidance: float = 1.0,
        interval: tuple[float, float] | None = None,
        level: int | None = None,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The denoiser with a fixed context, as a function (latents, time) -> model output.

        Args:
            context: (n, tokens, width).
            guidance: usual scale s in u + s (c - u); 1 skips the null condition.
            interval: first and last timestep that are guided; None for all.
            level: level of the patches, if the denoiser distinguishes levels; None for 20x.
        """
        return guided(self.denoiser(level), context, guidance, interval)

    def denoiser(self, level: int | None = None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The denoiser of a level as a function (latents, time, context) -> model output.

        A half precision denoiser takes and returns float32 here, as steps are taken in float32.
        """

        def at_level(latents: Tensor, time: Tensor, context: Tensor) -> Tensor:
            levels = torch.full((len(latents),), level or 0, device=latents.device)
            return self.unet(latents, time, context, levels)

        predict: Callable[[Tensor, Tensor, Tensor], Tensor] = self.unet
        if isinstance(self.unet, OctaveDenoiser):
            predict = at_level
        if dtype_of(self.unet) == torch.float32:
            return predict
        return lambda latents, time, context: predict(
            fitted(latents, self.unet), time, fitted(context, self.unet)
        ).float()

    @torch.no_grad()
    def __call__(
        self,
        grids: Tensor | np.ndarray | None = None,
        level: int | None = None,
        num_inference_steps: int = STEPS,
        guidance_scale: float = GUIDANCE,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        context: Tensor | None = None,
        guidance_interval: tuple[float, float] | None = None,
        return_dict: bool = True,
    ) -> ZoomLDMOutput | tuple[Any]:
        """Generate the patch of each grid from noise.

        Args:
            grids: (n, 2**level, 2**level, D) raw embeddings.
            level: 0 (20x) to 7 (0.15625x).
            num_inference_steps: steps of the scheduler, spaced as its configuration says.
            guidance_scale: see `denoise`.
            generator: source of the noise; a list gives one per image.
            latents: starting noise (n, C, h, w) instead of the generator's.
            output_type: `pil`, `np` (n, 256, 256, 3) in [0, 1], `pt` in [-1, 1] or `latent`.
            context: (n, tokens, width) instead of grids and level.
            guidance_interval: see `denoise`.
            return_dict: whether to return the images as `.images` of an object or in a tuple.

        Returns:
            `images`: a list of images, or one array or tensor.

        Raises:
            PipelineError: nothing to generate, or a level that the pipeline does not know.
            ConfigError: unsupported steps or scheduler.
        """
        if context is None:
            if grids is None or level is None:
                raise PipelineError("nothing to draw; pass grids and level, or context")
            context = self.context(grids, level)
        context = context.to(self.device)
        shape = (len(context), *self.latent_shape)
        if latents is None:
            # The dtype is fixed so that a generator gives the same noise in half precision too.
            latents = randn_tensor(
                shape, generator=generator, device=self.device, dtype=torch.float32
            )
        schedule = make_schedule(self.scheduler, num_inference_steps)
        model = self.denoise(context, guidance_scale, guidance_interval, level)
        bar: Any = self.progress_bar
        x = schedule.denoised(model, latents.to(self.device), bar)
        images = self._images(x, output_type, level)
        return ZoomLDMOutput(images) if return_dict else (images,)

    def _images(self, latents: Tensor, output_type: str, level: int | None) -> Any:
        if output_type == "latent":
            return latents
        images = self.decode_latents(latents, level)
        if output_type == "pt":
            return images
        array = ((images + 1) / 2).permute(0, 2, 3, 1).cpu().numpy()
        return array if output_type == "np" else self.numpy_to_pil(array)
