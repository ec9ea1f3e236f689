"""A training stage: what it reads, trains and needs, and how a batch becomes a loss."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from zoomldm.archive import Archive, Encoder
from zoomldm.data.slide_patches import SlidePatches
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.training.config import TrainConfig

Kinds = dict[str, type]
"""Class of each network of a pipeline, by its name there."""


@dataclass(frozen=True)
class Start:
    """What a run starts with.

    Attributes:
        preset: preset of the untrained networks' sizes.
        given: pipeline with the frozen networks; None if the stage may do without.
        finetune: start from the weights of `given` instead of untrained ones.
        config: the stage's settings.
        labels: labels that the embedding diffusion is to know, each once, in order.
        encoder: patch encoder of the archives, in place of the pipeline's.
    """

    preset: str
    given: ZoomLDMPipeline | None
    finetune: bool
    config: TrainConfig
    labels: tuple[str, ...] = ()
    encoder: Encoder | None = None

    @cached_property
    def fresh(self) -> ZoomLDMPipeline:
        """The preset's pipeline, untrained."""
        return build_pipeline(self.preset, self.config.seed)

    @property
    def frozen(self) -> ZoomLDMPipeline:
        """The pipeline that frozen networks are taken from."""
        return self.given or self.fresh


@dataclass(frozen=True)
class Data:
    """What a stage trains on; archives or patches, depending on its `source`.

    Attributes:
        run: folder of the run.
        names: slides trained on.
        archives: archives of training cases.
        held_out_archives: archives of held-out cases.
        patches: patches of training cases.
        held_out_patches: patches of held-out cases; None without any.
        labels: labels of the slides trained on, in their order; empty without labels.
    """

    run: Path
    names: tuple[str, ...]
    archives: tuple[Archive, ...] = ()
    held_out_archives: tuple[Archive, ...] = ()
    patches: SlidePatches | None = None
    held_out_patches: SlidePatches | None = None
    labels: tuple[str, ...] = ()


class Stage(nn.Module):
    """The networks to train, as submodules, and how a batch becomes a loss.

    Everything random in a step is drawn in `batch`, from the generator it is given, so a step
    is a function of (weights, seed, step, process) and nothing needs storing to resume.

    Attributes:
        name: name of the stage in messages.
        source: what it reads: `archives` or `slides`.
        trains: networks of the pipeline that it trains.
        needs: networks that it uses frozen, and that archives must have been made by.
        latents: whether archives must hold latents.
        Config: its settings; settings of other stages are errors.
        sparse: whether a step may leave some weights without gradient.
    """

    name: ClassVar[str] = "stage"
    source: ClassVar[Literal["archives", "slides"]] = "archives"
    trains: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    latents: ClassVar[bool] = False
    Config: ClassVar[type[TrainConfig]] = TrainConfig
    sparse: ClassVar[bool] = False

    @classmethod
    def fits(cls, kinds: Kinds) -> bool:
        """Whether this stage trains networks of these classes."""
        return True

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline | None:
        """Return the pipeline that it starts from; None if it has no part in any.

        Raises:
            PipelineError: a pipeline that the stage can't take.
            ConfigError: options that don't fit the stage.
        """
        raise NotImplementedError

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> "Stage":
        """Build the stage on its data.

        Args:
            base: the pipeline that `start` returned.
            start: as given to `start`.
            data: what it trains on.
        """
        raise NotImplementedError

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> "Stage":
        """Build the stage without data, on its networks alone, for `blank` and `loss`."""
        raise NotImplementedError

    @classmethod
    def finish(cls, networks: Path, run: Path) -> Path:
        """Store trained networks that have no part in a pipeline where they are used.

        Args:
            networks: folder of the trained networks.
            run: folder of the run.

        Returns:
            The folder of the result.
        """
        raise NotImplementedError

    def networks(self) -> dict[str, nn.Module]:
        """Networks that are trained, averaged and saved, by name."""
        raise NotImplementedError

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draw `size` training items and all noise that the step needs."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss under the key `loss`; other entries are only logged."""
        raise NotImplementedError

    def blank(self, size: int) -> dict[str, Tensor]:
        """Empty tensors in the shapes that `batch` draws, for the step that takes most memory."""
        raise NotImplementedError

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """What `forward` minimises, without reading any value: fake tensors have none."""
        return self(batch)["loss"]

    def frozen(self) -> list[nn.Module]:
        """Networks that lie beside the trained ones and are used frozen."""
        return []

    def blocks(self) -> list[nn.Module]:
        """Modules whose activations `checkpointing` recomputes instead of storing them."""
        return []

    def compilable(self) -> list[nn.Module]:
        """Modules whose inputs have constant shapes, for the setting `compile`."""
        return []

    def held_out(self) -> dict[str, float]:
        """Losses on data held out of training, with the averaged weights in place."""
        return {}

    def score(self, found: dict[str, float]) -> float:
        """The figure from `held_out` that selects the best weights; higher is better."""
        raise NotImplementedError

    def can_validate(self) -> bool:
        """Whether `validate` can be run on this data."""
        return True

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights, including `score`."""
        found = self.held_out()
        return {"score": self.score(found), **found}

    def images(self) -> np.ndarray | None:
        """One image (H, W, 3) uint8 that shows the state of the training, or None."""
        return None

    def save(self, folder: Path) -> None:
        """Write the trained networks in the form that a pipeline takes."""
        for name, network in self.networks().items():
            saved: Any = network
            saved.save_pretrained(folder / name)
