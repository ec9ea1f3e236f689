"""The project's judge from slides: an encoder that measures pictures and never makes any."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from zoomldm.cohort.cases import split_cases
from zoomldm.data.slide_patches import SlidePatches, cache_tiles
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.training.config import make_config
from zoomldm.training.loop import train
from zoomldm.training.stages.judge import JudgeStage

TINY = {"dim": 16, "widths": (8, 8, 8, 8), "map_channels": 2}
SHIPPED = {"dim": 192, "widths": (24, 48, 96, 160), "map_channels": 8}


def judge_size(preset: str) -> dict[str, Any]:
    """Sizes of a preset's judge: those of the shipped one, but for tests."""
    return TINY if preset.startswith("tiny") else SHIPPED


def train_judge(
    preset: str,
    files: Mapping[str, Path],
    out: Path,
    *,
    holdout: Sequence[str] = (),
    cases: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> tuple[Path, int, list[str], list[str]]:
    """Train a judge, or go on with it if `out` holds its checkpoints.

    Args:
        preset: sizes and settings.
        files: slides by name.
        out: folder of the run, which exists.
        holdout: cases to keep out; those that are measured on must be.
        cases: CSV with the columns `file` and `case`.
        changes: settings other than the preset's, by name.
        extra: facts that a run is only continued with.
        minutes: stop after so long, checkpointed.
        quiet: no progress display.

    Returns:
        The judge's folder (`--judge` of `zoomldm evaluate` takes it), the steps of the schedule,
        the slides trained on, and those kept out.

    Raises:
        ConfigError: settings, cases or data that don't fit.
    """
    config = make_config(preset, "judge", changes)
    split = split_cases(files, holdout, cases)
    if config.threads:
        torch.set_num_threads(config.threads)
    processes = PartialState(cpu=not torch.cuda.is_available())
    with processes.main_process_first():
        chosen = [files[name] for name in [*split.training, *split.held_out]]
        cache_tiles(chosen, out / "tiles", quiet=quiet)
    tiles = SlidePatches(out / "tiles", split.training)
    kept = SlidePatches(out / "tiles", split.held_out) if split.held_out else None
    torch.manual_seed(config.seed)
    stage = JudgeStage(TileCNN(layout=0, grey=True, **judge_size(preset)), tiles, kept)
    facts = {
        "stage": "judge",
        "preset": preset,
        "training": split.training,
        "held_out": split.held_out,
        **(extra or {}),
    }
    networks = train(stage, config, out, extra=facts, minutes=minutes, quiet=quiet)
    judge = out / "judge"
    if processes.is_main_process and (networks / "judge").is_dir():
        fresh = out / ".judge.part"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(networks / "judge", fresh)
        shutil.rmtree(judge, ignore_errors=True)
        fresh.rename(judge)
    return judge, config.steps, split.training, split.held_out
