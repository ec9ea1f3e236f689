"""What a run would do and what memory it would take, before it starts."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoomldm.archive import Archive, Encoder
from zoomldm.data.folder import common_encoder, find_split
from zoomldm.encoders import ENCODERS
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.pipeline import pick_device
from zoomldm.training.config import TABLE
from zoomldm.training.memory import MemoryEstimate, estimate_memory
from zoomldm.training.registry import STAGES, make_config
from zoomldm.training.train import TrainOptions, begin
from zoomldm.verbs import Report


@dataclass(frozen=True)
class TrainPlan(Report):
    """What `train` would do.

    Attributes:
        stage: stage that would be trained.
        preset: preset of network sizes and settings.
        settings: all settings of the stage as they would be; None is decided when the run starts.
        training: slides that would be trained on; empty without data.
        held_out: slides that would be held out.
        gpu: whether the estimates are for a GPU.
        memory: estimate per process of `stage`, with its settings and the given pipeline; then
            of the preset's other stages with the preset's settings.
    """

    stage: str
    preset: str
    settings: Mapping[str, Any]
    training: list[str]
    held_out: list[str]
    gpu: bool
    memory: list[MemoryEstimate]


def plan_training(
    data: Path | str | None,
    options: TrainOptions | None = None,
    *,
    pipeline: str | None = None,
) -> TrainPlan:
    """Report what `train` would do with these arguments, and what memory it would take.

    Nothing is written, and no network is built in memory except that of `pipeline`.

    Args:
        data: as in `train`; None for an estimate alone.
        options: see TrainOptions. The estimates are for a GPU unless `device` is the CPU.
        pipeline: as in `train`; None takes the sizes of the preset alone.

    Raises:
        ConfigError: settings, cases or data that don't fit.
        PipelineError: a pipeline that the stage can't take.

    Examples:
        >>> from zoomldm.training.plan import plan_training
        >>> from zoomldm.training.train import TrainOptions
        >>> plan = plan_training(None, TrainOptions(preset="tiny", settings={"batch_size": 4}))
        >>> plan.settings["batch_size"], [part.stage for part in plan.memory]
        (4, ['diffusion', 'autoencoder', 'patch-encoder', 'embedding-diffusion'])
    """
    options = options or TrainOptions()
    gpu = options.device == "auto" or pick_device(options.device).type != "cpu"
    source = STAGES[options.stage][0].source
    make_config(options.preset, options.stage, STAGES[options.stage][0])  # checks the preset
    training, held_out, encoder = _sources(data, options, source)
    bare = dataclasses.replace(options, settings={}, finetune=False, encoder=None)
    own = begin(options, pipeline, source, (), encoder, own=pipeline is not None)
    memory = [estimate_memory(*own, options.stage, gpu)]
    for name in TABLE[options.preset]:
        if name in (options.stage, "judge"):  # a judge is not part of any pipeline
            continue
        other = dataclasses.replace(bare, stage=name)
        begun = begin(other, None, STAGES[name][0].source, own=False)
        try:
            memory.append(estimate_memory(*begun, name, gpu))
        except PipelineError:  # a stage for networks that the preset does not have
            continue
    config = own[1].config.model_dump()
    return TrainPlan(options.stage, options.preset, config, training, held_out, gpu, memory)


def _sources(
    data: Path | str | None, options: TrainOptions, source: str
) -> tuple[list[str], list[str], Encoder | None]:
    """Slides trained on and held out, and the archives' encoder if it is not the pipeline's."""
    if data is None:
        return [], [], _known(options.encoder) if options.encoder else None
    cases = Path(options.cases) if options.cases else None
    archives = source == "archives"
    found, split = find_split(data, archives, options.stage, options.holdout, cases)
    encoder = None
    if options.encoder:
        used = [found[name] for name in [*split.training, *split.held_out]]
        archives = [archive for archive in used if isinstance(archive, Archive)]
        encoder = common_encoder(archives, options.encoder)
    return split.training, split.held_out, encoder


def _known(name: str) -> Encoder:
    if name not in ENCODERS:
        raise ConfigError(
            f"--encoder {name}: archives say what it is; give them with --data, or one of "
            f"{', '.join(ENCODERS)}"
        )
    return Encoder(id=name, digest="unknown", dim=ENCODERS[name].dim)
