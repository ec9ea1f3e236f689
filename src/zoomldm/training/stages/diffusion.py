"""Stage 3: summarizer and denoiser, trained together on archives made with --for-training."""

import logging
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.diffusion.guidance import guided
from zoomldm.diffusion.schedule import GUIDANCE, STEPS, make_schedule
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels
from zoomldm.training.alignment import Alignment, at_tokens
from zoomldm.training.assembly import start_denoiser
from zoomldm.training.balance import draw_levels
from zoomldm.training.config import DiffusionConfig
from zoomldm.training.stage import Data, Stage, Start
from zoomldm.training.validation import likeness

_log = logging.getLogger(__name__)

NULL = 0.1  # probability of the null condition (supplement, section 5)
REPEATS = (1, 1, 1, 1, 1, 2, 4, 4)  # items of a step that share one grid, by level
_FIXED = 16  # patches per level for losses on withheld and held-out data
_CHUNK = 16  # items denoised at once outside training


def _own(start: Start) -> DiffusionConfig:
    assert isinstance(start.config, DiffusionConfig)
    return start.config


class DiffusionStage(Stage):
    """Denoising loss of the latents of patches, conditioned on their summarised grids.

    Levels are drawn by `draw_levels`, uniformly by default; times uniformly from the schedule.
    At the coarse levels, whose grids are large, a few items of a step share one patch under
    different times and noise; this changes no expectation.

    Args:
        pipeline: its `unet` and `summarizer` are trained; `vae` and `scheduler` stay as they are.
        patches: training patches; None for a stage without data.
        held_out: patches of held-out cases, or None.
        null: probability of the null condition.
        level_power: see `draw_levels`.
        freeze_summarizer: train the denoiser alone.
        repa: weight of the alignment with the patch encoder.
        snr_limit: weight each item by min(SNR, limit) in units of x0's error (Hang et al. 2023,
            equation 8); None weights all items equally.
    """

    name = "diffusion"
    trains = ("unet", "summarizer")
    needs = ("vae", "patch_encoder")
    latents = True
    Config = DiffusionConfig
    sparse = True  # a step without coarse levels leaves out part of the summarizer's trunk
    alphas: Tensor

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline:
        """Start from the given autoencoder and patch encoder, and perhaps the summarizer."""
        return start_denoiser(start, _own(start).freeze_summarizer)

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """Train on the latents stored in archives."""
        assert base is not None
        levels, config = base.levels, _own(start)
        if levels < COUNT:
            _log.warning(
                "the pipeline knows %d levels; patches coarser than %s are left out of training",
                levels,
                NAMES[levels - 1],
            )
        held_out = None
        if data.held_out_archives:
            held_out = ArchivePatches(data.held_out_archives, withheld_fraction=0, levels=levels)
        return cls(
            base,
            ArchivePatches(data.archives, levels=levels),
            held_out,
            level_power=config.level_power,
            freeze_summarizer=config.freeze_summarizer,
            repa=config.repa,
        )

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> Stage:
        """See `Stage.sketch`."""
        assert base is not None
        own = _own(start)
        return cls(base, None, freeze_summarizer=own.freeze_summarizer, repa=own.repa)

    def __init__(
        self,
        pipeline: ZoomLDMPipeline,
        patches: ArchivePatches | None,
        held_out: ArchivePatches | None = None,
        null: float = NULL,
        snr_limit: float | None = None,
        level_power: float = 0,
        freeze_summarizer: bool = False,
        repa: float = 0,
    ) -> None:
        super().__init__()
        self.pipeline, self.repa = pipeline, repa
        if repa:
            width = pipeline.unet.config["widths"][-1]
            self.alignment = Alignment(int(width), pipeline.embedding_dim)
        self.unet = pipeline.unet.requires_grad_(True)
        self.summarizer = pipeline.summarizer.requires_grad_(not freeze_summarizer)
        self.freeze_summarizer, self.level_power = freeze_summarizer, level_power
        if not torch.cuda.is_available():
            for module in self.unet.modules():
                # On a CPU the backward pass of PyTorch's fused attention costs a sixth of a step.
                if isinstance(module, UNet2DConditionModel):
                    module.set_attn_processor(AttnProcessor())
        self.held_out_patches = held_out
        self.null, self.snr_limit = null, snr_limit
        self.prediction = str(pipeline.scheduler.config["prediction_type"])
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise PipelineError(
                f"scheduler predicts {self.prediction!r}; expected epsilon, v_prediction or sample"
            )
        self.register_buffer("alphas", pipeline.scheduler.alphas_cumprod.clone(), persistent=False)
        if patches is None:
            return
        self.patches = patches
        if not patches.levels:
            raise ConfigError(
                "no patch is left to train on: the archives' tissue is so little that the withheld "
                "block takes all of it; add larger slides"
            )
        wanted = (pipeline.embedding_dim, *pipeline.latent_shape)
        if wanted != (patches.dim, *patches.latent_shape):
            raise PipelineError(
                f"archives hold (D, C, h, w) = {(patches.dim, *patches.latent_shape)}; "
                f"the pipeline takes {wanted}"
            )

    def networks(self) -> dict[str, nn.Module]:
        """Denoiser and, if it is trained, summarizer."""
        networks: dict[str, nn.Module] = {"unet": self.unet, "summarizer": self.summarizer}
        if self.freeze_summarizer:
            del networks["summarizer"]
        if self.repa:
            networks["alignment"] = self.alignment
        return networks

    def save(self, folder: Path) -> None:
        """Write all networks but the alignment, which is dropped."""
        for name, network in self.networks().items():
            if name != "alignment":
                network.save_pretrained(folder / name)  # type: ignore[operator]

    def compilable(self) -> list[nn.Module]:
        """The U-Net; the summarizer meets grids of every size."""
        return [self.unet.unet] if hasattr(self.unet, "unet") else [self.unet]

    def frozen(self) -> list[nn.Module]:
        """The autoencoder, which decodes the images shown."""
        return [self.pipeline.vae]

    def blocks(self) -> list[nn.Module]:
        """The blocks of the U-Net and of the summarizer."""
        own = [] if self.freeze_summarizer else [*self.summarizer.blocks]
        return [*self.compilable(), *own, *getattr(self.summarizer, "trunk", [])]

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`: levels as `batch` draws them; a step of few items has the coarsest."""
        levels, shape = self.pipeline.levels, (size, *self.pipeline.latent_shape)
        batch = {"latents": torch.empty(shape), "noise": torch.empty(shape)}
        for level in range(levels):
            count = size // levels + (level >= levels - size % levels)
            if count:
                grids, side = -(-count // REPEATS[level]), 1 << level
                dim = self.pipeline.embedding_dim
                batch[f"grid/{level}"] = torch.empty(grids, side, side, dim, dtype=torch.float16)
                batch[f"time/{level}"] = torch.zeros(count, dtype=torch.long)
        return {**batch, "keep": torch.empty(size)}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draw `size` items.

        Returns:
            `latents` and `noise` (size, C, h, w) and `keep` (size,), ordered by level; for each
            level drawn, `time/k` (n,) and `grid/k` (ceil(n / repeats), 2**k, 2**k, D) float16.
        """
        levels = self.patches.levels
        pools = {k: self.patches.patches[k] for k in levels}
        places = draw_levels(rng, size, [len(p) for p in pools.values()], self.level_power)
        chosen = {}
        for place, count in zip(*np.unique(places, return_counts=True), strict=True):
            level = levels[place]
            grids = -(-int(count) // REPEATS[level])
            chosen[level] = pools[level][rng.integers(len(pools[level]), size=grids)], int(count)
        return self._items(self.patches, chosen, rng, self.null)

    def _items(
        self,
        store: ArchivePatches,
        chosen: dict[int, tuple[np.ndarray, int]],
        rng: np.random.Generator,
        null: float,
    ) -> dict[str, Tensor]:
        """Items of `chosen`: level -> (patches, number of items to repeat them to)."""
        batch, latents = {}, []
        size = sum(count for _, count in chosen.values())
        # One time from each of `size` equal spans: uniform for each item, even over the step.
        times = (rng.permutation(size) + rng.random(size)) / size * len(self.alphas)
        begin = 0
        for level, (patches, count) in sorted(chosen.items()):
            repeats = REPEATS[level]
            latents.append(store.latents(level, patches).repeat(repeats, 0)[:count])
            batch[f"grid/{level}"] = torch.from_numpy(store.grids(level, patches))
            batch[f"time/{level}"] = torch.from_numpy(times[begin : begin + count].astype(int))
            begin += count
        x = torch.from_numpy(np.concatenate(latents))
        noise = rng.standard_normal(tuple(x.shape), dtype=np.float32)
        return batch | {
            "latents": x,
            "noise": torch.from_numpy(noise),
            "keep": torch.from_numpy((rng.random(size) >= null).astype(np.float32)),
        }

    def _contexts(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Context and time of each item, and (level, items) of each level in the batch."""
        contexts, times, counts = [], [], []
        for level in range(COUNT):
            grid = batch.get(f"grid/{level}")
            if grid is None:
                continue
            time = batch[f"time/{level}"]
            context = self.summarizer(grid, torch.full((len(grid),), level, device=grid.device))
            context = context[:, None].expand(-1, REPEATS[level], -1, -1).flatten(0, 1)
            contexts.append(context[: len(time)])
            times.append(time)
            counts.append((level, len(time)))
        return torch.cat(contexts), torch.cat(times), counts

    def _errors(self, batch: dict[str, Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Squared error of each item (size,) float32, and (level, items) of each level."""
        context, time, counts = self._contexts(batch)
        context = context * batch["keep"][:, None, None]
        x, noise = batch["latents"], batch["noise"]
        signal2 = self.alphas[time].view(-1, 1, 1, 1)
        signal, spread = signal2.sqrt(), (1 - signal2).sqrt()
        target = {"epsilon": noise, "sample": x, "v_prediction": signal * noise - spread * x}
        out = self.unet(signal * x + spread * noise, time, context).float()
        errors = (out - target[self.prediction]).square().mean((1, 2, 3))
        if self.snr_limit is not None:
            snr = (signal2 / (1 - signal2)).flatten()
            unit = {"epsilon": snr, "sample": torch.ones_like(snr), "v_prediction": snr + 1}
            errors = errors * snr.clamp(max=self.snr_limit) / unit[self.prediction]
        return errors, counts

    def _aligned(self, batch: dict[str, Tensor]) -> Tensor:
        """The alignment loss, after the denoiser has run on a batch."""
        wanted = []
        for level in range(COUNT):
            grid = batch.get(f"grid/{level}")
            if grid is not None:
                own = at_tokens(grid)[:, None].expand(-1, REPEATS[level], -1, -1).flatten(0, 1)
                wanted.append(own[: len(batch[f"time/{level}"])])
        return self.alignment(torch.cat(wanted))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean loss, and the loss of each level in the batch as `level/20x` and so on."""
        if self.repa:
            self.alignment.watch(self.compilable()[0].mid_block)  # type: ignore[arg-type]
        errors, counts = self._errors(batch)
        parts = errors.detach().split([n for _, n in counts])
        named = {f"level/{NAMES[k]}": p.mean() for (k, _), p in zip(counts, parts, strict=True)}
        if not self.repa:
            return {"loss": errors.mean(), **named}
        apart = self._aligned(batch)
        return {"loss": errors.mean() + self.repa * apart, **named, "repa": apart.detach()}

    def _fixed_patches(self) -> dict[str, tuple[ArchivePatches, list[np.ndarray]]]:
        """Fixed patches by set: seen, spatial hold-out regions, held-out cases."""
        sets = {
            "seen": (self.patches, self.patches.patches),
            "withheld": (self.patches, self.patches.withheld),
        }
        if self.held_out_patches is not None:
            sets["held-out"] = (self.held_out_patches, self.held_out_patches.patches)
        return {
            name: (store, [_spread(p, _FIXED) for p in pools])
            for name, (store, pools) in sets.items()
        }

    def held_out(self) -> dict[str, float]:
        """Losses, conditioned and unweighted, on fixed patches with fixed times and noise.

        Each of `seen` (training patches), `withheld` and `held-out`, overall and by level as
        `held-out/20x` and so on.
        """
        found = {}
        device = self.alphas.device
        limit, self.snr_limit = self.snr_limit, None
        for name, (store, pools) in self._fixed_patches().items():
            means = []
            for level, patches in enumerate(pools):
                rng = np.random.default_rng(level)
                total = 0.0
                for start in range(0, len(patches), _CHUNK // REPEATS[level]):
                    part = patches[start : start + _CHUNK // REPEATS[level]]
                    count = len(part) * REPEATS[level]
                    batch = self._items(store, {level: (part, count)}, rng, null=0)
                    errors, _ = self._errors({k: v.to(device) for k, v in batch.items()})
                    total += float(errors.mean()) * len(part)
                if len(patches):
                    means.append(total / len(patches))
                    found[f"{name}/{NAMES[level]}"] = means[-1]
            if means:
                found[name] = float(np.mean(means))
        self.snr_limit = limit
        return found

    def images(
        self, columns: int = 2, steps: int = STEPS, guidance: float = GUIDANCE
    ) -> np.ndarray:
        """One row per level: real patches (round trips), each beside one sampled from its grid."""
        store = self.patches if self.held_out_patches is None else self.held_out_patches
        chosen = {}
        for level in store.levels:
            patches = store.fullest(level, columns)
            chosen[level] = patches.repeat(-(-columns // len(patches)), 0)[:columns]
        real = torch.cat(
            [torch.from_numpy(store.latents(level, patches)) for level, patches in chosen.items()]
        )
        x = self._sampled(store, chosen, steps, guidance)
        both = [
            np.concatenate([to_pixels(part) for part in self._decoded(latents)])
            for latents in (real.to(x.device), x)
        ]
        pairs = np.concatenate(both, 2)  # (n, 256, 512, 3)
        rows = pairs.reshape(len(chosen), columns, *pairs.shape[1:])
        return np.concatenate([np.concatenate(list(row), 1) for row in rows])

    def _sampled(
        self, store: ArchivePatches, chosen: dict[int, np.ndarray], steps: int, guidance: float
    ) -> Tensor:
        """Latents sampled from the grids of patches, level -> patches."""
        device = self.alphas.device
        contexts = torch.cat(
            [
                self.summarizer(
                    torch.from_numpy(store.grids(level, patches)).to(device),
                    torch.full((len(patches),), level, device=device),
                )
                for level, patches in chosen.items()
            ]
        )
        shape = (len(contexts), *self.pipeline.latent_shape)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        model = guided(self.unet, contexts, guidance)
        schedule = make_schedule(self.pipeline.scheduler, steps)
        return schedule.denoised(lambda noisy, time: model(noisy, time).float(), x)

    def _decoded(self, latents: Tensor) -> list[Tensor]:
        vae = self.pipeline.vae.to(latents.device)
        return [vae.decode(part).float() for part in latents.split(8)]

    def validate(self, count: int = 16, steps: int = 12) -> dict[str, float]:
        """Likeness of 20x tiles generated from their embeddings; the loss if there's no encoder."""
        if self.pipeline.patch_encoder is None or 0 not in self.patches.levels:
            found = self.held_out()
            names = (name for name in ("held-out", "withheld", "seen") if name in found)
            return {"score": -found[next(names)], **found}
        store = self.held_out_patches or self.patches
        pool = store.withheld[0] if len(store.withheld[0]) else store.patches[0]
        chosen = _spread(pool, count)
        x = self._sampled(store, {0: chosen}, steps, GUIDANCE)
        own = torch.from_numpy(store.grids(0, chosen))[:, 0, 0]
        encoder = self.pipeline.patch_encoder.to(x.device)
        found = likeness(encoder, torch.cat(self._decoded(x)), own)
        return {"score": found["cosine"], **found}


def _spread(patches: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` rows of `patches`, evenly spread."""
    if not len(patches):
        return patches
    return patches[np.linspace(0, len(patches) - 1, min(count, len(patches))).astype(int)]
