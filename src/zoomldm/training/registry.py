"""The training stages by name, and their settings."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from pydantic import ValidationError

from zoomldm.errors import ConfigError
from zoomldm.training.config import TABLE, TrainConfig
from zoomldm.training.stage import Kinds, Stage
from zoomldm.training.stages.autoencoder import AutoencoderStage
from zoomldm.training.stages.context_network import ContextNetworkStage
from zoomldm.training.stages.diffusion import DiffusionStage
from zoomldm.training.stages.embedding_diffusion import EmbeddingDiffusionStage
from zoomldm.training.stages.judge import JudgeStage
from zoomldm.training.stages.lowpass_decoder import LowPassDecoderStage
from zoomldm.training.stages.octave import OctaveStage
from zoomldm.training.stages.patch_encoder import PatchEncoderStage

StageName = Literal[
    "diffusion",
    "embedding-diffusion",
    "context-network",
    "autoencoder",
    "patch-encoder",
    "judge",
]
STAGES: dict[str, tuple[type[Stage], ...]] = {  # if several, the first that fits the networks
    "diffusion": (OctaveStage, DiffusionStage),
    "embedding-diffusion": (EmbeddingDiffusionStage,),
    "context-network": (ContextNetworkStage,),
    "autoencoder": (LowPassDecoderStage, AutoencoderStage),
    "patch-encoder": (PatchEncoderStage,),
    "judge": (JudgeStage,),
}
assert set(STAGES) == set(get_args(StageName))


def pick_stage(name: str, kinds: Kinds) -> type[Stage]:
    """Return the stage of this name that trains networks of these classes.

    Raises:
        ConfigError: no such stage.
    """
    if name not in STAGES:
        raise ConfigError(f"stage {name!r} does not exist; stages are {', '.join(STAGES)}")
    return next(stage for stage in STAGES[name] if stage.fits(kinds))


def make_config(
    preset: str, name: str, stage: type[Stage], changes: Mapping[str, object] | None = None
) -> TrainConfig:
    """Return the settings of a stage in a preset.

    Args:
        preset: preset of sizes and settings.
        name: name of the stage.
        stage: stage of that name.
        changes: settings that replace the preset's; values may be text.

    Raises:
        ConfigError: a preset that can't be trained, a setting that does not exist or means nothing
            to the stage, or a value out of its range.
    """
    if preset not in TABLE:
        raise ConfigError(f"preset {preset!r} can't be trained; expected {' or '.join(TABLE)}")
    if name not in TABLE[preset]:
        raise ConfigError(
            f"preset {preset} has settings for the stage {' and '.join(TABLE[preset])} alone; its "
            "other networks come from `zoomldm convert`"
        )
    for key in changes or {}:
        if key not in stage.Config.model_fields:
            raise ConfigError(_refusal(key, name, stage))
    try:
        return stage.Config(**{**TABLE[preset][name], **(changes or {})})  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where} = {first['input']!r}: {first['msg'].lower()}") from error


def _every() -> Iterator[tuple[str, type[Stage]]]:
    for name, stages in STAGES.items():
        for stage in stages:
            yield name if len(stages) == 1 else f"{name} ({stage.name})", stage


def _refusal(key: str, name: str, stage: type[Stage]) -> str:
    others = [label for label, other in _every() if key in other.Config.model_fields]
    if others:
        here = name if len(STAGES[name]) == 1 else f"{name} ({stage.name})"
        return (
            f"setting {key!r} means nothing to the stage {here}; it is for "
            f"{' and '.join(others)}: leave it out"
        )
    known = list(stage.Config.model_fields)
    near = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"setting {key!r} does not exist; {hint}"
