"""What a stage of training is: what it reads, trains and needs, and how a batch becomes a loss."""

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
    """What a run begins with.

    Attributes:
        preset: sizes of untrained networks.
        given: pipeline with the frozen networks; None where the stage may do without.
        finetune: begin with the weights of `given` in place of untrained ones.
        config: the stage's settings.
        labels: that the embedding diffusion is to know, each once, in order.
        encoder: patch encoder that the archives are of, in place of the pipeline's.
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
    """What a stage is given to train on; archives or patches, as its `source` says.

    Attributes:
        run: folder of the run.
        names: slides trained on.
        archives: of training cases.
        kept_archives: of held-out cases.
        patches: of training cases.
        kept_patches: of held-out cases, None without any.
        labels: of the slides trained on, in their order; empty without labels.
    """

    run: Path
    names: tuple[str, ...]
    archives: tuple[Archive, ...] = ()
    kept_archives: tuple[Archive, ...] = ()
    patches: SlidePatches | None = None
    kept_patches: SlidePatches | None = None
    labels: tuple[str, ...] = ()


class Stage(nn.Module):
    """What is trained: networks as submodules, and how a batch becomes a loss.

    Everything random in a step is drawn in `batch`, from the generator it is given, so a step
    is a function of (weights, seed, step, process) and nothing needs storing to resume.

    Attributes:
        name: of the stage in its messages.
        source: what it reads: `archives` or `slides`.
        trains: networks of the pipeline that it trains.
        needs: networks that it takes as they are, and that archives must have been made by.
        latents: whether archives must hold latents.
        Config: its settings; another one's are errors.
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
        """The pipeline that it begins with; None where it has no part in any.

        Raises:
            PipelineError: a pipeline that the stage can't take.
            ConfigError: what goes together with no such stage.
        """
        raise NotImplementedError

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> "Stage":
        """The stage on its data.

        Args:
            base: what `start` gave.
            start: the same.
            data: what it trains on.
        """
        raise NotImplementedError

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> "Stage":
        """The stage on its networks alone, without data: `blank` and `loss` can be asked of it."""
        raise NotImplementedError

    @classmethod
    def finish(cls, networks: Path, run: Path) -> Path:
        """Put trained networks that have no part in a pipeline where they are used.

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
        """Loss under the key `loss`; other entries are logged as they are."""
        raise NotImplementedError

    def blank(self, size: int) -> dict[str, Tensor]:
        """What `batch` draws, of the step that takes most memory, as shapes without content."""
        raise NotImplementedError

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """What `forward` minimises, without a look at any number: tensors may have none."""
        return self(batch)["loss"]

    def frozen(self) -> list[nn.Module]:
        """Networks that lie beside the trained ones and are run as they are."""
        return []

    def blocks(self) -> list[nn.Module]:
        """Modules that `checkpointing` makes activations of again, in place of keeping them."""
        return []

    def compilable(self) -> list[nn.Module]:
        """Modules whose inputs keep their shapes, for `compile` in the settings."""
        return []

    def held_out(self) -> dict[str, float]:
        """Losses on what was kept out of training, with the averaged weights in place."""
        return {}

    def score(self, found: dict[str, float]) -> float:
        """What of `held_out` chooses the best weights, the higher the better."""
        raise NotImplementedError

    def can_validate(self) -> bool:
        """Whether `validate` has anything to say of this data."""
        return True

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights, `score` among them."""
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
