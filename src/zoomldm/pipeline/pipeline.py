"""ZoomLDMPipeline: what a trained model is, and the calls that everything else makes on it."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from zoomldm.diffusion.guidance import guided
from zoomldm.errors import PipelineError
from zoomldm.geometry.levels import COUNT, NAMES, TILE
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import OctaveDenoiser


class ZoomLDMPipeline(DiffusionPipeline):
    """All networks of one trained system in diffusers' layout.

    Args:
        unet: the denoiser, `unet(latents, time, context)`.
        vae: the autoencoder, `encode` and `decode`.
        summarizer: `summarizer(grid, level)` to a context.
        patch_encoder: tiles (B, 3, 256, 256) in [0, 1] to embeddings (B, D).
        scheduler: any diffusers scheduler; its configuration holds the schedule.
        embedding_diffusion: draws contexts; None where there is none.
        source: what it was converted from, None where it was trained here.
    """

    _optional_components: ClassVar[list[str]] = [
        "unet",
        "vae",
        "summarizer",
        "patch_encoder",
        "scheduler",
        "embedding_diffusion",
    ]

    def __init__(
        self,
        unet: Any,
        vae: Any,
        summarizer: Any,
        patch_encoder: Any,
        scheduler: Any,
        embedding_diffusion: Any = None,
        source: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet,
            vae=vae,
            summarizer=summarizer,
            patch_encoder=patch_encoder,
            scheduler=scheduler,
            embedding_diffusion=embedding_diffusion,
        )
        self.register_to_config(source=source)
        for network in (unet, vae, summarizer, patch_encoder, embedding_diffusion):
            if isinstance(network, nn.Module):
                network.eval().requires_grad_(False)
        self._digests: dict[str, str] = {}

    @property
    def embedding_dim(self) -> int:
        """D, length of an embedding."""
        return int(self.summarizer.config["dim"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of a patch's latents."""
        side = TILE // self.vae.factor
        return int(self.vae.config["latent_channels"]), side, side

    def digest(self, *components: str) -> str:
        """SHA-256 over configuration and weights of the named components (all when none)."""
        every = ("unet", "vae", "summarizer", "patch_encoder", "scheduler", "embedding_diffusion")
        names = components or [n for n in every if getattr(self, n) is not None]
        return hashlib.sha256("".join(self._digest(n) for n in names).encode()).hexdigest()

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            part = self._part(name)
            network = isinstance(part, nn.Module)
            # An option that networks are given later and that is unset changes no digest.
            config = {
                k: v
                for k, v in dict(part.config).items()
                if not k.startswith("_") and not (network and v in (None, (), []))
            }
            sha = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
            if network:
                for key, value in sorted(part.state_dict().items()):
                    sha.update(key.encode())
                    sha.update(value.detach().cpu().contiguous().numpy().tobytes())
            self._digests[name] = sha.hexdigest()
        return self._digests[name]

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
        return self._part("patch_encoder")(x).float().cpu().numpy()

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, 256, 256) in [-1, 1] to latents (n, C, h, w)."""
        return self.vae.encode(pictures)

    @torch.no_grad()
    def decode_latents(
        self, latents: Tensor, level: int | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Latents (n, C, h, w) to pictures (n, 3, 256, 256), clamped to [-1, 1].

        Args:
            latents: what is decoded.
            level: of the patches, where the autoencoder tells levels apart; None for 20x.
            noise: (n, noise_channels, h, w) standard normal, where the decoder takes any.
        """
        if not isinstance(self.vae, LowPassAutoencoder):
            return self.vae.decode(latents).float().clamp(-1, 1)
        levels = torch.full((len(latents),), level or 0, device=latents.device)
        return self.vae.decode(latents, noise, levels).float().clamp(-1, 1)

    @torch.no_grad()
    def context(
        self, grids: Tensor | np.ndarray, level: int, shifts: Tensor | None = None
    ) -> Tensor:
        """Summarise grids of raw embeddings.

        Args:
            grids: (n, s, s, D), s = 2**level; one tile more a side with `shifts`.
            level: 0..7.
            shifts: (n, 2) tokens, see `CNNSummarizer.forward`.

        Returns:
            (n, tokens, width).
        """
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
        """The denoiser under a context as a function (latents, time) -> model output.

        Args:
            context: (n, tokens, width).
            guidance: usual scale s in u + s (c - u); 1 leaves the null condition out.
            interval: first and last timestep that are guided; None for all.
            level: of the patches, where the denoiser tells levels apart; None for 20x.
        """
        return guided(self.denoiser(level), context, guidance, interval)

    def denoiser(self, level: int | None = None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The denoiser of a level as a function (latents, time, context) -> model output."""
        if not isinstance(self.unet, OctaveDenoiser):
            return self.unet

        def told(latents: Tensor, time: Tensor, context: Tensor) -> Tensor:
            levels = torch.full((len(latents),), level or 0, device=latents.device)
            return self.unet(latents, time, context, levels)

        return told

    @torch.no_grad()
    def __call__(
        self,
        grids: Tensor | np.ndarray | None = None,
        level: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 2.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        context: Tensor | None = None,
        guidance_interval: tuple[float, float] | None = None,
    ) -> Any:
        """Generate the patch of each grid from noise.

        Args:
            grids: (n, 2**level, 2**level, D) raw embeddings.
            level: 0 (20x) to 7 (0.15625x).
            num_inference_steps: steps of the scheduler.
            guidance_scale: see `denoise`.
            generator: source of the noise; a list gives one a picture.
            latents: starting noise (n, C, h, w) in place of the generator's.
            output_type: `pil`, `np` (n, 256, 256, 3) in [0, 1], `pt` in [-1, 1] or `latent`.
            context: (n, tokens, width) in place of grids and level.
            guidance_interval: see `denoise`.

        Returns:
            A list of pictures, or one array or tensor.
        """
        if context is None:
            if grids is None or level is None:
                raise PipelineError("nothing to draw; pass grids and level, or context")
            if not 0 <= level < COUNT:
                raise PipelineError(f"level {level} does not exist; expected 0 to {COUNT - 1}")
            context = self.context(grids, level)
        context = context.to(self.device)
        shape = (len(context), *self.latent_shape)
        if latents is None:
            if isinstance(generator, list):
                latents = torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generator])
            else:
                latents = torch.randn(shape, generator=generator)
        x = latents.to(self.device)
        model = self.denoise(context, guidance_scale, guidance_interval, level)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):  # type: ignore
            scaled = self.scheduler.scale_model_input(x, t)
            out = model(scaled, t.expand(len(x)).to(self.device))
            x = self.scheduler.step(out, t, x, return_dict=False)[0]
        if output_type == "latent":
            return x
        pictures = self.decode_latents(x, level)
        if output_type == "pt":
            return pictures
        array = ((pictures + 1) / 2).permute(0, 2, 3, 1).cpu().numpy()
        return array if output_type == "np" else self.numpy_to_pil(array)

    def sample(
        self,
        level: int,
        n: int = 1,
        generator: torch.Generator | int | None = None,
        *,
        reference: Tensor | np.ndarray | None = None,
        label: str | None = None,
        output_type: str = "pil",
        **options: Any,
    ) -> Any:
        """Draw n pictures of new tissue: contexts by the embedding diffusion, pictures under them.

        Args:
            level: 0 (20x) to 7 (0.15625x).
            n: how many.
            generator: a seed from 0 on, or where one is drawn from; sample i depends on it, on
                the level and on i, never on n.
            reference: (D,) embedding of a tile like which the tissue is to be, or (n, D).
            label: one that the embedding diffusion was trained with.
            output_type: `pil`, `np` (n, 256, 256, 3) in [0, 1] or `uint8` of the same shape.
            options: further ones of `zoomldm.sampling.options.SampleOptions`.

        Raises:
            PipelineError: there is no embedding diffusion.
            ConfigError: an argument out of its range.
        """
        # A convenience on top of a room that stands on this file.
        from zoomldm.sampling.contexts import as_seed
        from zoomldm.sampling.options import SampleOptions
        from zoomldm.sampling.sampler import Sampler

        chosen = SampleOptions(seed=as_seed(generator), **options)
        pixels = Sampler(self, chosen).sample(level, n, 0, reference, label)
        if output_type == "uint8":
            return pixels
        array = pixels.astype(np.float32) / 255
        return array if output_type == "np" else self.numpy_to_pil(array)
