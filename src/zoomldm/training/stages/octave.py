"""Stage: summarizer and denoiser together, on octaves of slides' 2 mpp rasters."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from zoomldm.data.coded import as_base_layer
from zoomldm.data.rasters import FINE, MARGIN, SIDE, RasterPatches, Windows, load_patches
from zoomldm.generation.octaves import Known, codec_loss, make_latents, make_planes, octave_times
from zoomldm.geometry.levels import COARSEST, COUNT, NAMES
from zoomldm.networks.lowpass import (
    LowPassAutoencoder,
    coarse_planes,
    enlarged,
    planes_image,
    pooled,
)
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT, OctaveDenoiser
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.training.alignment import Alignment, at_tokens
from zoomldm.training.assembly import start_denoiser
from zoomldm.training.config import OctaveConfig
from zoomldm.training.head_fit import PAIRS, WINDOWS, fit_blend, fit_outline
from zoomldm.training.stage import Data, Kinds, Stage, Start
from zoomldm.training.validation import likeness

NULL = 0.1  # probability of the null condition (supplement, section 5)
LEVELS = (0.46, 0.18, 0.12, 0.08, 0.06, 0.04, 0.03, 0.03)
REPEATS = (1, 1, 1, 1, 1, 2, 4, 4)  # items that share one grid
PARENTS = 0.5  # largest standard deviation of a parent's noise
QUALITIES = (20, 75)  # range of codec quality for base layers
_FIXED = 16


class OctaveStage(Stage):
    """v-loss of latents given context and hint, and the likelihood of the denoiser's linear head.

    Args:
        autoencoder: encodes the latents; stays frozen.
        summarizer: trained.
        denoiser: trained.
        patches: training windows; None for a stage without data.
        held_out: windows of held-out cases, or None.
        levels: probability of each level.
        null: probability of the null condition.
        repa: weight of the alignment with the patch encoder.
        encoder: patch encoder used in validation; None to validate by losses.
    """

    name = "octave"
    trains = ("unet", "summarizer")
    needs = ("vae", "patch_encoder")
    Config = OctaveConfig
    sparse = True

    @classmethod
    def fits(cls, kinds: Kinds) -> bool:
        """Whether the denoiser takes a parent."""
        return kinds["unet"] is OctaveDenoiser

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline:
        """Start from the given autoencoder and patch encoder."""
        return start_denoiser(start)

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """Train on windows of the rasters stored in archives."""
        assert base is not None
        patches, held_out = load_patches(data.run, data.archives, data.held_out_archives)
        stage = cls(
            base.vae,
            base.summarizer,
            base.unet,
            patches,
            held_out,
            repa=_repa(start),
            encoder=base.patch_encoder,
        )
        stage.fit()
        return stage

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> Stage:
        """See `Stage.sketch`."""
        assert base is not None
        return cls(base.vae, base.summarizer, base.unet, None, repa=_repa(start))

    def __init__(
        self,
        autoencoder: LowPassAutoencoder,
        summarizer: CNNSummarizer,
        denoiser: OctaveDenoiser,
        patches: RasterPatches | None,
        held_out: RasterPatches | None = None,
        levels: tuple[float, ...] = LEVELS,
        null: float = NULL,
        repa: float = 0,
        encoder: Any = None,
    ) -> None:
        super().__init__()
        self.encoder = [] if encoder is None else [encoder]  # in a list: not a submodule
        self.repa = repa
        if repa:
            width, dim = denoiser.config["widths"][-1], summarizer.config["dim"]
            self.alignment = Alignment(int(width), int(dim))
        self.vae = [autoencoder.requires_grad_(False).eval()]  # in a list: not a submodule
        self.summarizer = summarizer.requires_grad_(True)
        self.unet = denoiser.requires_grad_(True)
        if not torch.cuda.is_available():
            self.unet.unet.set_attn_processor(AttnProcessor())
        if patches is not None:
            self.patches = patches
        self.held_out_patches = held_out
        self.levels = np.array(levels) / sum(levels)
        self.null = null

    @torch.no_grad()
    def fit(self, windows: tuple[int, ...] = WINDOWS, pairs: int = PAIRS) -> None:
        """Fit the linear parts by least squares: an outline that is not set yet, and its blends.

        Args:
            windows: number of training windows per level for the outline.
            pairs: number of training items per level and kind of hint for a blend.
        """
        if not fit_outline(self.summarizer, self.vae[0], self.patches, windows):
            return
        if self.unet.config["blends"] == 1:
            return
        for level in range(COUNT):
            for kind in (NONE, PARENT, BASE)[
                : 1 if level == COARSEST else 3 if level < FINE else 2
            ]:
                rng = np.random.default_rng([12, level, kind])
                level_windows = self.patches.draw(rng, level, pairs // REPEATS[level])
                kinds = np.full(len(level_windows.pixels), kind)
                batch = self._items(level_windows, kinds, len(kinds) * REPEATS[level], rng, 0)
                latents, hint, context = self.given(batch)
                own, _ = self.unet.head(context, batch["level"])
                fit_blend(self.unet, level, kind, hint, own, latents)

    def networks(self) -> dict[str, nn.Module]:
        """Denoiser and summarizer, and the alignment if there is one."""
        networks: dict[str, nn.Module] = {"unet": self.unet, "summarizer": self.summarizer}
        if self.repa:
            networks["alignment"] = self.alignment
        return networks

    def save(self, folder: Path) -> None:
        """Write denoiser and summarizer; the alignment is dropped."""
        self.unet.save_pretrained(folder / "unet")
        self.summarizer.save_pretrained(folder / "summarizer")

    def frozen(self) -> list[nn.Module]:
        """The autoencoder, which encodes the latents."""
        return list(self.vae)

    def compilable(self) -> list[nn.Module]:
        """The U-Net; the summarizer meets grids of every size."""
        return [self.unet.unet]

    def blocks(self) -> list[nn.Module]:
        """The U-Net, and the summarizer's trunk and blocks for large grids."""
        return [self.unet.unet, *self.summarizer.trunk, *self.summarizer.blocks]

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`: items of the coarsest level, whose grids are largest."""
        grids, side = -(-size // REPEATS[COARSEST]), 1 << COARSEST
        none, shape = torch.zeros(size, dtype=torch.long), (size, 6, 32, 32)
        pixels = torch.empty(size, SIDE, SIDE, 3, dtype=torch.uint8)
        dim = int(self.summarizer.config["dim"])
        return {
            "pixels": pixels,
            "lossy": pixels,
            **dict.fromkeys(("kind", "where", "time", "level"), none),
            **dict.fromkeys(("loss", "keep"), torch.empty(size)),
            "grid": torch.empty(grids, side, side, dim, dtype=torch.float16),
            "noise": torch.empty(shape),
            "spoil": torch.empty(shape),
        }

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draw `size` items of one level."""
        level = int(rng.choice(COUNT, p=self.levels))
        windows = self.patches.draw(rng, level, -(-size // REPEATS[level]))
        kinds = self._kinds(rng, level, len(windows.pixels))
        return self._items(windows, kinds, size, rng, self.null)

    def _kinds(self, rng: np.random.Generator, level: int, count: int) -> np.ndarray:
        base = (0.4, 0.2, 0.15)[level] if level < FINE else 0.0
        none = 0.2 if level < COARSEST else 1.0
        return rng.choice(3, size=count, p=(none, 1 - none - base if none < 1 else 0, base))

    def _items(
        self,
        windows: Windows,
        kinds: np.ndarray,
        size: int,
        rng: np.random.Generator,
        null: float,
        quality: float | None = None,
    ) -> dict[str, Tensor]:
        repeats = REPEATS[windows.level]
        n = len(windows.pixels)
        loss, lossy = np.zeros(n, np.float32), windows.pixels.copy()
        for i in np.nonzero(kinds == BASE)[0]:
            chosen = rng.uniform(*QUALITIES) if quality is None else quality
            lossy[i] = as_base_layer(windows.around[i], chosen, MARGIN)
            loss[i] = codec_loss("avif", round(chosen))
        loss[kinds == PARENT] = PARENTS * rng.random(int((kinds == PARENT).sum())) ** 2
        where = np.arange(n).repeat(repeats)[:size]
        # times: logit-normal, one from each of `size` equal spans of its distribution
        span = (rng.permutation(size) + rng.random(size)) / size
        normal = torch.special.ndtri(torch.from_numpy(span).clamp(1e-4, 1 - 1e-4))
        time = (torch.sigmoid(normal * 1.1 + 0.2) * 1000).long().clamp(0, 999)
        shape = (size, 6, 32, 32)
        out = {
            "pixels": torch.from_numpy(windows.pixels[where]),
            "lossy": torch.from_numpy(lossy[where]),
            "kind": torch.from_numpy(kinds[where].astype(np.int64)),
            "loss": torch.from_numpy(loss[where]),
            "grid": torch.from_numpy(windows.grids),
            "where": torch.from_numpy(where),
            "time": time,
            "noise": torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
            "spoil": torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
            "keep": torch.from_numpy((rng.random(size) >= null).astype(np.float32)),
            "level": torch.full((size,), windows.level),
        }
        if windows.shifts is not None:
            out["shift"] = torch.from_numpy(windows.shifts)
        return out

    def given(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, hint and context of a batch."""
        vae, device = self.vae[0], batch["noise"].device
        if vae.mean.device != device:
            vae.to(device)  # type: ignore[arg-type]
        planes = coarse_planes(to_signed(batch["pixels"]))
        latents = vae.from_planes(planes)
        parent = vae.from_planes(enlarged(pooled(planes)))
        parent = parent + batch["loss"].view(-1, 1, 1, 1) * batch["spoil"]
        base = vae.from_planes(coarse_planes(to_signed(batch["lossy"])))
        kind = batch["kind"].view(-1, 1, 1, 1)
        hint = torch.where(kind == BASE, base, torch.where(kind == PARENT, parent, 0.0))
        levels = batch["level"][:1].expand(len(batch["grid"]))
        context = self.summarizer(batch["grid"], levels, batch.get("shift"))
        return latents, hint, context[batch["where"]]

    def errors(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Squared error of v, and the head's negative log-likelihood, of each item (size,)."""
        x, hint, context = self.given(batch)
        context = context * batch["keep"][:, None, None]
        level, kind = batch["level"], batch["kind"]
        mean, variance = head = self.unet.head(context, level, hint, kind)
        likelihood = 0.5 * ((x - mean).square() / variance + variance.log()).mean((1, 2, 3))
        bar = self.unet.alphas[batch["time"]].view(-1, 1, 1, 1)
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        noise = batch["noise"]
        out = self.unet(
            alpha * x + sigma * noise,
            batch["time"],
            context,
            level,
            hint,
            kind,
            batch["loss"],
            head,
        ).float()
        return (out - (alpha * noise - sigma * x)).square().mean((1, 2, 3)), likelihood

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Stage.loss`."""
        return self._losses(batch)[0]

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss, v-loss of each item, and the alignment's loss if there is one."""
        if self.repa:
            self.alignment.watch(self.unet.unet.mid_block)
        errors, likelihood = self.errors(batch)
        loss = errors.mean() + 0.1 * likelihood.mean()
        if not self.repa:
            return loss, errors, {}
        wanted = at_tokens(batch["grid"], batch.get("shift"))[batch["where"]]
        apart = self.alignment(wanted)
        return loss + self.repa * apart, errors, {"repa": apart.detach()}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss, and v-loss by level and kind of hint."""
        loss, errors, others = self._losses(batch)
        name = NAMES[int(batch["level"][0])]
        named = {}
        for kind, label in ((NONE, "none"), (PARENT, "parent"), (BASE, "base")):
            chosen = errors.detach()[batch["kind"] == kind]
            if len(chosen):
                named[f"{name}/{label}"] = chosen.mean()
        return {"loss": loss, **named, **others}

    def _fixed(self, store: RasterPatches, level: int, count: int) -> Windows:
        return store.draw(np.random.default_rng([7, level]), level, count)

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """v-loss on fixed windows: null, context, context with parent, context with base layer."""
        found = {}
        for name, store in (("seen", self.patches), ("held-out", self.held_out_patches)):
            if store is None:
                continue
            for level in range(COUNT):
                windows = self._fixed(store, level, _FIXED)
                cases = [("null", NONE, 1.0), ("context", NONE, 0.0)]
                cases += [("parent", PARENT, 0.0)] if level < COARSEST else []
                cases += [("base", BASE, 0.0)] if level < FINE else []
                for label, kind, null in cases:
                    rng = np.random.default_rng([8, level])
                    kinds = np.full(_FIXED, kind)
                    batch = self._items(windows, kinds, _FIXED * REPEATS[level], rng, null, 42)
                    batch = {k: v.to(self.unet.alphas.device) for k, v in batch.items()}
                    found[f"{name}/{NAMES[level]}/{label}"] = float(self.errors(batch)[0].mean())
        return found

    def validate(self, count: int = 16, steps: int = 6) -> dict[str, float]:
        """Likeness of 20x tiles generated from their embeddings; the loss if there's no encoder."""
        if not self.encoder:
            found = self.held_out()
            name = "held-out" if self.held_out_patches is not None else "seen"
            values = [found[f"{name}/{level}/context"] for level in NAMES]
            return {"score": -float(np.mean(values)), **found}
        windows = (self.held_out_patches or self.patches).tiles(count)
        rng, n = np.random.default_rng(9), len(windows.pixels)
        device = self.unet.alphas.device
        batch = self._items(windows, np.full(n, NONE), n, rng, 0, 42)
        batch = {k: v.to(device) for k, v in batch.items()}
        _, hint, context = self.given(batch)
        known = Known(0, context, NONE, hint, 0.0)
        x = make_latents(self.unet, known, batch["noise"], octave_times(self.unet.alphas, steps))
        vae = self.vae[0]
        shape = (n, int(vae.config["noise_channels"]), *x.shape[2:])
        noise = torch.from_numpy(rng.standard_normal(shape, np.float32)).to(device)
        images = torch.cat(
            [
                vae.decode(a, b, c).float()
                for a, b, c in zip(x.split(4), noise.split(4), batch["level"].split(4), strict=True)
            ]
        )
        found = likeness(self.encoder[0].to(device), images, batch["grid"][:, 0, 0])
        return {"score": found["cosine"], **found}

    def images(self, columns: int = 6, steps: int = 8) -> np.ndarray:
        """For each level real windows above those sampled from context, with parent, with base."""
        rows = []
        store = self.held_out_patches or self.patches
        for level in (0, 1, 2, 3, 4):
            windows = self._fixed(store, level, columns)
            for kind in (None, NONE, PARENT, BASE):
                if kind is None:
                    rows.append(np.concatenate(list(windows.pixels), 1))
                    continue
                if kind == BASE and level >= FINE:
                    continue
                rng = np.random.default_rng(level)
                batch = self._items(
                    windows, np.full(columns, kind), columns * REPEATS[level], rng, 0, 42
                )
                batch = {
                    k: v[:columns] if k not in ("grid", "shift") else v for k, v in batch.items()
                }
                batch["loss"] = torch.where(batch["kind"] == PARENT, 0.1, batch["loss"])
                _, hint, context = self.given(batch)
                known = Known(level, context, kind, hint, float(batch["loss"].max()))
                times = octave_times(self.unet.alphas, steps)
                planes = make_planes(self.unet, self.vae[0], known, batch["noise"], times)
                image = planes_image(planes)
                rows.append(np.concatenate(list(to_pixels(image)), 1))
        return np.concatenate(rows)


def _repa(start: Start) -> float:
    assert isinstance(start.config, OctaveConfig)
    return start.config.repa
