"""What a stage starts from, and the pipeline that its networks are put into."""

import copy
from pathlib import Path
from typing import Any

import torch

from zoomldm.errors import ConfigError, PipelineError
from zoomldm.files import atomic_folder
from zoomldm.networks.autoencoder import FoldedAutoencoder
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import KINDS, SHIPPED, ZoomLDMPipeline, build_pipeline, load_pipeline
from zoomldm.pipeline.presets import preset as preset_table
from zoomldm.training.config import TrainConfig

_PARTS = {"autoencoder": "vae", "patch-encoder": "patch_encoder"}
FROZEN = {  # networks that a stage on archives takes as they are
    "diffusion": ("vae", "patch_encoder"),
    "embedding-diffusion": ("summarizer", "patch_encoder"),
}


def starting_pipeline(
    stage: str,
    preset: str,
    pipeline: str | None,
    config: TrainConfig,
    finetune: bool,
    labels: list[str],
) -> ZoomLDMPipeline:
    """The frozen networks, and those that a stage trains: untrained, or given ones.

    Args:
        stage: see `train_stage`.
        preset: sizes of untrained networks.
        pipeline: id or directory of the frozen networks; None for the preset's own.
        config: the stage's settings.
        finetune: begin with the weights of `pipeline`.
        labels: that the embedding diffusion is to know.

    Raises:
        PipelineError: a pipeline that the stage can't take.
        ConfigError: other labels than the pipeline's.
    """
    fresh = build_pipeline(preset, config.seed)
    if pipeline is None and stage in _PARTS and not finetune:
        return fresh
    given = load_pipeline(pipeline or (preset if preset.startswith("tiny") else SHIPPED))
    if stage in _PARTS:
        return _for_frozen_network(stage, fresh, given, finetune)
    if stage == "embedding-diffusion":
        return _for_embedding_diffusion(preset, given, config.seed, finetune, labels)
    return _for_denoiser(preset, fresh, given, config, finetune)


def _for_frozen_network(
    stage: str, fresh: ZoomLDMPipeline, given: ZoomLDMPipeline, finetune: bool
) -> ZoomLDMPipeline:
    """Where an autoencoder or a patch encoder starts, which later stages take as it is."""
    own = getattr(given, _PARTS[stage])
    if finetune and not isinstance(own, FoldedAutoencoder | LowPassAutoencoder | TileCNN):
        found = "none" if own is None else f"a {type(own).__name__}"
        raise PipelineError(f"--finetune: the stage {stage} can't train {found}")
    parts = {
        name: getattr(fresh if name == _PARTS[stage] and not finetune else given, name)
        for name in ("unet", "vae", "summarizer", "patch_encoder")
    }
    if stage == "autoencoder":  # contexts stay as they are, and so does what draws them
        parts["embedding_diffusion"] = given.embedding_diffusion
    return ZoomLDMPipeline(**parts, scheduler=given.scheduler)


def _for_embedding_diffusion(
    preset: str, given: ZoomLDMPipeline, seed: int, finetune: bool, labels: list[str]
) -> ZoomLDMPipeline:
    if not finetune:
        settings = preset_table(preset)["embedding_diffusion"] | {"labels": labels}
        return _with_embedding_diffusion(given, settings, seed)
    before = given.embedding_diffusion
    if not isinstance(before, ContextDiT):
        raise PipelineError("pipeline has no embedding diffusion of ours to go on with")
    if before.labels != labels:
        raise ConfigError(
            f"--finetune: the pipeline's embedding diffusion knows the labels {before.labels}, "
            f"now they are {labels}; give the same, or leave --finetune out"
        )
    return given


def _for_denoiser(
    preset: str,
    fresh: ZoomLDMPipeline,
    given: ZoomLDMPipeline,
    config: TrainConfig,
    finetune: bool,
) -> ZoomLDMPipeline:
    """Where summarizer and denoiser start, on the autoencoder and patch encoder given."""
    table = preset_table(preset)
    parts = {"vae": given.vae, "patch_encoder": given.patch_encoder}
    if config.freeze_summarizer:  # contexts stay as they are, and so does what draws them
        parts["embedding_diffusion"] = given.embedding_diffusion
    if finetune:
        return ZoomLDMPipeline(
            **parts, unet=given.unet, summarizer=given.summarizer, scheduler=given.scheduler
        )
    channels, side, _ = given.latent_shape
    settings = {**table["unet"], "latent_channels": channels, "sample_size": side}
    kind = KINDS[settings.pop("kind", "unet")]
    if (kind is OctaveDenoiser) != isinstance(given.vae, LowPassAutoencoder):
        raise PipelineError(
            f"preset {preset} has a {kind.__name__}, the pipeline's latents are those of a "
            f"{type(given.vae).__name__}; give a pipeline of the same kind, or another preset"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        summarizer = CNNSummarizer(**{**table["summarizer"], "dim": given.embedding_dim})
        if config.freeze_summarizer:
            summarizer = _eight_by_eight(given)
            settings["context_dim"] = summarizer.context_shape[1]
        unet = kind(**settings)
    return ZoomLDMPipeline(**parts, unet=unet, summarizer=summarizer, scheduler=fresh.scheduler)


def _with_embedding_diffusion(
    given: ZoomLDMPipeline, settings: dict[str, Any], seed: int
) -> ZoomLDMPipeline:
    """The pipeline with an untrained embedding diffusion that fits its summarizer."""
    summarizer = _eight_by_eight(given)
    settings = {k: v for k, v in settings.items() if k != "kind"} | {
        "context_dim": summarizer.context_shape[1],
        "reference_dim": given.embedding_dim,
    }
    names = ("unet", "vae", "summarizer", "patch_encoder", "scheduler")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ZoomLDMPipeline(
            **{name: getattr(given, name) for name in names},
            embedding_diffusion=ContextDiT(**settings),
        )


def _eight_by_eight(given: ZoomLDMPipeline) -> CNNSummarizer:
    if isinstance(given.summarizer, CNNSummarizer):
        return given.summarizer
    raise PipelineError(
        f"pipeline has a {type(given.summarizer).__name__} for a summarizer; networks are trained "
        "on contexts of 8 x 8 tokens: give a pipeline of `zoomldm train`"
    )


def assemble(
    base: ZoomLDMPipeline, networks: Path, out: Path, *, half: bool = False
) -> ZoomLDMPipeline:
    """Write a pipeline directory: `base` with the networks that a run wrote in place of its own.

    Args:
        base: gives every network that `networks` does not hold, and the scheduler.
        networks: a run's `networks/`: folders `unet`, `summarizer`, `autoencoder`,
            `patch_encoder` or `embedding_diffusion`.
        out: the directory; replaced if it exists.
        half: store weights as float16. Networks that made archives must have been stored so
            before, for their digest changes with their weights.
    """
    names = ("unet", "vae", "summarizer", "patch_encoder", "embedding_diffusion")
    parts = {name: getattr(base, name) for name in names}
    for name, part in parts.items():
        folder = networks / ("autoencoder" if name == "vae" else name)
        if part is not None and folder.is_dir():
            parts[name] = type(part).from_pretrained(str(folder))
    if half:
        parts = {name: part and copy.deepcopy(part).half() for name, part in parts.items()}
    made = ZoomLDMPipeline(**parts, scheduler=base.scheduler)
    with atomic_folder(out) as fresh:
        made.save_pretrained(str(fresh))
    return made


def frozen_digest(base: ZoomLDMPipeline, stage: str) -> str:
    """Digest of the networks that a stage takes as they are; empty where there are none."""
    names = [name for name in FROZEN.get(stage, ()) if getattr(base, name) is not None]
    return base.digest(*names) if names else ""
