"""`train` called briefly: stage, preset, data and run in order, the rest by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoomldm.training.config import TABLE, TrainConfig
from zoomldm.training.registry import make_config, pick_stage
from zoomldm.training.train import TrainOptions, TrainReport, preset_kinds, train


def train_stage(
    stage: Any,
    preset: str,
    data: Path,
    out: Path,
    *,
    changes: Mapping[str, object] | None = None,
    pipeline: str | None = None,
    **options: Any,
) -> TrainReport:
    chosen = TrainOptions(stage=stage, preset=preset, settings=changes or {}, **options)
    return train(data, out, chosen, pipeline=pipeline)


def settings(preset: str, name: str, changes: Mapping[str, object] | None = None) -> TrainConfig:
    kinds = preset_kinds(preset if preset in TABLE else "tiny")
    return make_config(preset, name, pick_stage(name, kinds), changes)
