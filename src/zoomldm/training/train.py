"""From a command to a run: data found and split by case, one stage trained, a pipeline made."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from zoomldm.archive import Archive
from zoomldm.cohort.cases import Split, read_labels, split_cases
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.data.contexts import ContextStore
from zoomldm.data.crops import CropSource, PatchCrops
from zoomldm.data.folder import find_sources, identity, open_archives
from zoomldm.data.rasters import RasterPatches, load_raster
from zoomldm.data.slide_patches import SlidePatches, cache_tiles
from zoomldm.errors import ConfigError, TargetError
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.networks.autoencoder import FoldedAutoencoder
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.pipeline import ZoomLDMPipeline, pick_device
from zoomldm.training.assembly import FROZEN, assemble, frozen_digest, starting_pipeline
from zoomldm.training.config import STAGES, TrainConfig, make_config
from zoomldm.training.judging import train_judge
from zoomldm.training.loop import Stage, train
from zoomldm.training.made_crops import MadeCrops
from zoomldm.training.perceptual import perceptual_features
from zoomldm.training.stages.autoencoder import AutoencoderStage
from zoomldm.training.stages.diffusion import DiffusionStage
from zoomldm.training.stages.embedding_diffusion import FIXED, EmbeddingDiffusionStage
from zoomldm.training.stages.lowpass_decoder import LowPassDecoderStage, fit_bands
from zoomldm.training.stages.octave import OctaveStage
from zoomldm.training.stages.patch_encoder import PatchEncoderStage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """What a run came to.

    Attributes:
        stage: autoencoder, patch-encoder, diffusion, embedding-diffusion or judge.
        run: folder of the run.
        pipeline: folder of the pipeline with the averaged networks in it; of the judge alone
            where that was trained.
        steps: steps that the schedule has.
        training: slides trained on.
        held_out: slides kept out.
    """

    stage: str
    run: str
    pipeline: str
    steps: int
    training: list[str]
    held_out: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def train_stage(
    stage: str,
    preset: str,
    data: Path | str,
    out: Path | str,
    *,
    holdout: Sequence[str] = (),
    cases: Path | str | None = None,
    changes: Mapping[str, Any] | None = None,
    pipeline: str | None = None,
    finetune: bool = False,
    labels: Path | str | None = None,
    label_column: str = "label",
    minutes: float | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> TrainReport:
    """Train one stage, or go on with it if `out` holds its checkpoints.

    Args:
        stage: `diffusion` (summarizer and denoiser) or `embedding-diffusion`, from archives;
            `autoencoder`, `patch-encoder` or `judge`, from slides.
        preset: sizes of the networks and settings.
        data: folder of archives (for `diffusion` made with --for-training), or of slides.
        out: folder of the run; made if its parent exists.
        holdout: cases to keep out.
        cases: CSV with the columns `file` and `case`.
        changes: settings other than the preset's, by name.
        pipeline: id or directory of the frozen networks; None takes the preset's own, for the
            first two stages an untrained one. Its other networks go into the run's pipeline.
        finetune: begin with the weights that `pipeline` has in place of untrained ones.
        labels: CSV with the column `file` and `label_column`; the embedding diffusion then learns
            to draw tissue of a label.
        label_column: of `labels`.
        minutes: stop after so long, checkpointed.
        device: see `pick_device`; of several processes each takes its own GPU, or all the CPU.
        quiet: no progress display.

    Raises:
        ConfigError: settings, cases or data that don't fit.
        ArchiveError: an archive without latents, or made by other networks.
        PipelineError: a pipeline that the stage can't take.
        TargetError: `out` can't be written, or another process trains there.
    """
    config = make_config(preset, stage, changes)
    place = pick_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)  # which accelerate then takes
    data, out = Path(data), Path(out)
    sources = find_sources(data, stage in FROZEN, stage)
    split = split_cases(sources, holdout, Path(cases) if cases else None)
    if labels and stage != "embedding-diffusion":
        raise ConfigError(f"--labels is for the stage embedding-diffusion, not for {stage}")
    if stage == "judge":
        if pipeline or finetune:
            raise ConfigError("--stage judge takes no pipeline: a judge has no part in any")
        _make_folder(out)
        folder, steps, training, kept = train_judge(
            preset,
            sources,
            out,
            holdout=holdout,
            cases=Path(cases) if cases else None,
            changes=changes,
            extra={"data": identity(sources)},
            minutes=minutes,
            quiet=quiet,
        )
        return TrainReport(stage, str(out), str(folder), steps, training, kept)
    named = read_labels(Path(labels), label_column, split.training) if labels else []
    if config.threads:
        torch.set_num_threads(config.threads)
    base = starting_pipeline(stage, preset, pipeline, config, finetune, sorted(set(named)))
    if stage == "diffusion" and isinstance(base.unet, OctaveDenoiser):
        for key in ("level_power", "freeze_summarizer"):
            if changes and key in changes:
                raise ConfigError(
                    f"setting {key!r} means nothing to a denoiser of octaves: leave it out"
                )
    start = {"start": base.digest()} if finetune else {}
    processes = PartialState(cpu=place.type == "cpu")
    _make_folder(out)
    files = {name: sources[name] for name in [*split.training, *split.held_out]}
    if stage in FROZEN:
        latents = stage == "diffusion" and not isinstance(base.unet, OctaveDenoiser)
        opened = open_archives(base, files, latents)
        training, kept = ([opened[n] for n in names] for names in (split.training, split.held_out))
        if stage == "diffusion" and isinstance(base.unet, OctaveDenoiser):
            with processes.main_process_first():
                built = _octave_stage(base, out / "rasters", training, kept)
        elif stage == "diffusion":
            built = _diffusion_stage(base, config, training, kept)
        else:
            built = _embedding_stage(base, config, training, kept, named, finetune)
    else:
        with processes.main_process_first():
            cache_tiles(list(files.values()), out / "tiles", quiet=quiet)
        built = _tile_stage(stage, base, out / "tiles", split, config)
    extra = {
        "stage": stage,
        "preset": preset,
        "training": split.training,
        "held_out": split.held_out,
        "frozen": frozen_digest(base, stage),
        "data": identity(files),
        **start,
        **({"labels": named} if named else {}),
    }
    networks = train(built, config, out, extra=extra, minutes=minutes, device=device, quiet=quiet)
    if processes.is_main_process:
        assemble(base, networks, out / "pipeline")
    return TrainReport(
        stage, str(out), str(out / "pipeline"), config.steps, split.training, split.held_out
    )


def _make_folder(out: Path) -> None:
    if out.is_dir():
        return
    if out.exists():
        raise TargetError(f"{out}: is a file; expected a folder for the run")
    if not out.parent.is_dir():
        raise TargetError(f"{out}: folder {out.parent} does not exist; create it first")
    try:
        out.mkdir(exist_ok=True)  # several processes may start at once
    except OSError as error:
        raise TargetError(f"{out}: can't be made ({error.strerror})") from error


def _diffusion_stage(
    base: ZoomLDMPipeline, config: TrainConfig, training: list[Archive], held_out: list[Archive]
) -> Stage:
    levels = base.levels
    if levels < COUNT:
        _log.warning(
            "the pipeline knows %d levels; patches coarser than %s are left out of training",
            levels,
            NAMES[levels - 1],
        )
    kept = ArchivePatches(held_out, share=0, levels=levels) if held_out else None
    return DiffusionStage(
        base,
        ArchivePatches(training, levels=levels),
        kept,
        level_power=config.level_power,
        freeze_summarizer=config.freeze_summarizer,
    )


def _octave_stage(
    base: ZoomLDMPipeline, folder: Path, training: list[Archive], held_out: list[Archive]
) -> Stage:
    folder.mkdir(exist_ok=True)
    patches = RasterPatches([load_raster(a, folder) for a in training])
    kept = RasterPatches([load_raster(a, folder, share=0) for a in held_out]) if held_out else None
    return OctaveStage(base.vae, base.summarizer, base.unet, patches, kept)


def _embedding_stage(
    base: ZoomLDMPipeline,
    config: TrainConfig,
    training: list[Archive],
    held_out: list[Archive],
    named: list[str],
    finetune: bool,
) -> Stage:
    kept = ContextStore(base, held_out, share=0, most=FIXED) if held_out else None
    withheld = ContextStore(base, training, withheld=True, most=FIXED)
    contexts = ContextStore(base, training, most=config.contexts)
    places = [base.embedding_diffusion.labels.index(name) for name in named] or None
    stage = EmbeddingDiffusionStage(base, contexts, withheld, kept, config.level_power, places)
    if not finetune:
        stage.standardise()
    return stage


def _tile_stage(
    stage: str, base: ZoomLDMPipeline, cache: Path, split: Split, config: TrainConfig
) -> Stage:
    tiles = SlidePatches(cache, split.training)
    kept = SlidePatches(cache, split.held_out) if split.held_out else None
    torch.manual_seed(config.seed)  # the heads that a stage adds
    if stage == "autoencoder" and isinstance(base.vae, LowPassAutoencoder):
        source: CropSource = PatchCrops(tiles)
        other: CropSource | None = PatchCrops(kept) if kept else None
        fit_bands(base.vae, source, config.seed)
        if config.made:
            source = MadeCrops(tiles, base, source, config.made)
            other = MadeCrops(kept, base, other, config.made) if kept and other else None
        return LowPassDecoderStage(base.vae, source, other, perceptual_features(), config.adversary)
    if stage == "autoencoder":
        autoencoder: FoldedAutoencoder = base.vae.requires_grad_(True)
        return AutoencoderStage(autoencoder, tiles, kept)
    encoder: TileCNN = base.patch_encoder.requires_grad_(True)
    return PatchEncoderStage(encoder, tiles, kept)


__all__ = ["STAGES", "TrainReport", "assemble", "train_stage"]
