"""Stage 4: the embedding diffusion, trained on contexts from the frozen summarizer."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from zoomldm.data.contexts import ContextStore
from zoomldm.diffusion.learned_range import LearnedRange
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.training.assembly import start_embedding_diffusion
from zoomldm.training.balance import draw_levels
from zoomldm.training.config import EmbeddingConfig
from zoomldm.training.stage import Data, Stage, Start

NULL = 0.1  # probability that every condition is left out, level included
REFERENCE = 0.3  # probability of a reference otherwise
PARENT = 0.5  # probability of the parent otherwise
LABEL = 0.5  # probability of the label otherwise
FIXED = 24  # contexts per level for losses on withheld and held-out data


class EmbeddingDiffusionStage(Stage):
    """Squared error of clean contexts predicted from noisy ones; of v for networks with axes.

    Levels are drawn by `draw_levels`, uniformly by default; times uniformly.
    Contexts are standardised by statistics stored in the network (an untrained one needs
    `standardise` first); the schedule is the squared cosine (`LearnedRange.cosine`).

    Args:
        pipeline: its `embedding_diffusion` is trained.
        contexts: contexts of training patches; None for a stage without data.
        withheld: contexts of patches in the spatial hold-out regions.
        held_out: contexts of held-out cases, or None.
        level_power: see `draw_levels`.
        labels: index, in the network's labels, of each archive of `contexts`; None without labels.
    """

    name = "embedding-diffusion"
    trains = ("embedding_diffusion",)
    needs = ("summarizer", "patch_encoder")
    Config = EmbeddingConfig

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline:
        """Start from the given summarizer."""
        return start_embedding_diffusion(start)

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """Train on the contexts of the archives' grids."""
        config = start.config
        assert base is not None and isinstance(config, EmbeddingConfig)
        held_out = None
        if data.held_out_archives:
            held_out = ContextStore(base, data.held_out_archives, withheld_fraction=0, most=FIXED)
        withheld = ContextStore(base, data.archives, withheld=True, most=FIXED)
        contexts = ContextStore(base, data.archives, most=config.contexts)
        places = [base.embedding_diffusion.labels.index(name) for name in data.labels] or None
        stage = cls(base, contexts, withheld, held_out, config.level_power, places)
        if not start.finetune:
            stage.standardise()
        return stage

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> Stage:
        """See `Stage.sketch`."""
        assert base is not None
        return cls(base, None)

    def __init__(
        self,
        pipeline: ZoomLDMPipeline,
        contexts: ContextStore | None,
        withheld: ContextStore | None = None,
        held_out: ContextStore | None = None,
        level_power: float = 0,
        labels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        network: ContextDiT = pipeline.embedding_diffusion
        self.network = network.requires_grad_(True)
        self.withheld, self.held_out_store = withheld, held_out
        self.diffusion, self.level_power = LearnedRange.cosine(), level_power
        self.labels = None if labels is None else np.asarray(labels)
        self.pools: list[int] = []
        if contexts is not None:
            self.store = contexts
            self.pools = [k for k in range(COUNT) if len(contexts.levels[k].patches)]

    def standardise(self) -> None:
        """Give an untrained network the statistics of the training contexts."""
        if self.network.axes:
            self.network.set_axes(*map(torch.from_numpy, self.store.moments()))
            return
        mean, deviation = self.store.statistics()
        self.network.mean.copy_(torch.from_numpy(mean))
        self.network.deviation.copy_(torch.from_numpy(deviation))

    def networks(self) -> dict[str, nn.Module]:
        """The embedding diffusion alone."""
        return {"embedding_diffusion": self.network}

    def compilable(self) -> list[nn.Module]:
        """The network, since every step has the same shapes."""
        return [self.network]

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return list(self.network.blocks)

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`."""
        tokens, width = self.network.context_shape
        none = torch.zeros(size, dtype=torch.long)
        return {
            "contexts": torch.empty(size, tokens, width),
            "noise": torch.empty(size, tokens, width),
            "parent": torch.empty(size, tokens // 4, width),
            "reference": torch.empty(size, int(self.network.config["reference_dim"])),
            **dict.fromkeys(("time", "level", "shown"), none),
        }

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Stage.loss`."""
        return self.errors(batch).mean()

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draw `size` items.

        Returns:
            `contexts` and `noise` (size, tokens, width), `parent` (size, tokens / 4, width) and
            `reference` (size, D), zeros where null; `time`, `level`, `shown` (size,), where
            `shown` is the level given to the network; with labels also `label` (size,).
        """
        counts = [len(self.store.levels[k].patches) for k in self.pools]
        levels = np.asarray(self.pools)[draw_levels(rng, size, counts, self.level_power)]
        chosen = [int(rng.integers(len(self.store.levels[k].patches))) for k in levels]
        null = rng.random(size) < NULL
        return self._items(
            self.store,
            levels,
            chosen,
            rng,
            null,
            (rng.random(size) < REFERENCE) & ~null,
            (rng.random(size) < PARENT) & ~null,
        ) | self._sampled_labels(levels, chosen, rng, null)

    def _sampled_labels(
        self, levels: np.ndarray, chosen: list[int], rng: np.random.Generator, null: np.ndarray
    ) -> dict[str, Tensor]:
        if self.labels is None:
            return {}
        pairs = zip(levels.tolist(), chosen, strict=True)
        own = self.labels[[self.store.levels[k].patches[i, 0] for k, i in pairs]]
        given = (rng.random(len(own)) < LABEL) & ~null
        return {"label": torch.from_numpy(np.where(given, own, len(self.network.labels)))}

    def _items(
        self,
        store: ContextStore,
        levels: np.ndarray,
        chosen: list[int],
        rng: np.random.Generator,
        null: np.ndarray,
        reference: np.ndarray,
        parent: np.ndarray,
    ) -> dict[str, Tensor]:
        size = len(chosen)
        pairs = list(zip(levels.tolist(), chosen, strict=True))
        contexts = np.stack([store.levels[k].contexts[i] for k, i in pairs]).astype(np.float32)
        parents = np.stack([store.levels[k].parents[i] for k, i in pairs]).astype(np.float32)
        parents[~parent] = 0
        references = np.stack([store.reference(k, i, rng) for k, i in pairs])
        references[~reference] = 0
        # One time from each of `size` equal spans: uniform for each item, even over the step.
        times = (rng.permutation(size) + rng.random(size)) / size * len(self.diffusion.betas)
        return {
            "contexts": torch.from_numpy(contexts),
            "noise": torch.from_numpy(rng.standard_normal(contexts.shape, dtype=np.float32)),
            "parent": torch.from_numpy(parents),
            "reference": torch.from_numpy(references),
            "time": torch.from_numpy(times.astype(np.int64)),
            "level": torch.from_numpy(levels.astype(np.int64)),
            "shown": torch.from_numpy(np.where(null, COUNT, levels).astype(np.int64)),
        }

    def errors(self, batch: dict[str, Tensor]) -> Tensor:
        """Squared error of each item (size,) float32."""
        clean = self.network.standardised(batch["contexts"], batch["level"])
        noisy = self.diffusion.add_noise(clean, batch["time"], batch["noise"])
        out = self.network(
            noisy,
            batch["time"],
            batch["shown"],
            batch["reference"],
            batch["parent"],
            batch.get("label"),
        )
        errors = (out.float() - clean).square().mean((1, 2))
        return errors * self.network.error_scale(batch["time"])

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean loss, and the loss of each level in the batch as `level/20x` and so on."""
        errors = self.errors(batch)
        seen = errors.detach()
        named = {
            f"level/{NAMES[k]}": seen[batch["level"] == k].mean()
            for k in self.pools
            if bool((batch["level"] == k).any())
        }
        return {"loss": errors.mean(), **named}

    def held_out(self) -> dict[str, float]:
        """Losses on fixed contexts with fixed times and noise, without reference and parent.

        Each of `seen` (trained on), `withheld` and `held-out`, overall and by level as
        `held-out/20x` and so on; `reference` and `parent` repeat the last set under that condition
        (all levels but the coarsest have a parent).
        """
        found: dict[str, float] = {}
        sets = {"seen": self.store, "withheld": self.withheld, "held-out": self.held_out_store}
        for name, store in sets.items():
            if store is not None:
                found |= self._loss(name, store)
        last = self.held_out_store or self.withheld or self.store
        for name in ("reference", "parent"):
            found |= {k: v for k, v in self._loss(name, last, name).items() if k == name}
        return found

    def score(self, found: dict[str, float]) -> float:
        """Negative loss on held-out cases, else on withheld or training patches."""
        names = (name for name in ("held-out", "withheld", "seen") if name in found)
        return -found[next(names)]

    def _loss(self, name: str, store: ContextStore, condition: str = "") -> dict[str, float]:
        found: dict[str, float] = {}
        device = self.network.mean.device
        for level, held in enumerate(store.levels):
            count = min(FIXED, len(held.patches))
            if not count:
                continue
            rng = np.random.default_rng(level)
            chosen = np.linspace(0, len(held.patches) - 1, count).astype(int).tolist()
            none, every = np.zeros(count, bool), np.ones(count, bool)
            batch = self._items(
                store,
                np.full(count, level),
                chosen,
                rng,
                none,
                every if condition == "reference" else none,
                every if condition == "parent" else none,
            )
            errors = self.errors({k: v.to(device) for k, v in batch.items()})
            found[f"{name}/{NAMES[level]}"] = float(errors.mean())
        return {name: float(np.mean(list(found.values()))), **found} if found else {}
