"""The pipeline that a stage starts from, and the pipeline that its networks are put into."""

import copy
from pathlib import Path
from typing import Any

import torch

from zoomldm.errors import ConfigError, PipelineError
from zoomldm.files import atomic_folder
from zoomldm.networks.autoencoder import FoldedAutoencoder
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.context_network import ContextNetwork
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import KINDS, PARTS, ZoomLDMPipeline
from zoomldm.pipeline.presets import preset as preset_table
from zoomldm.training.stage import Start


def start_frozen_network(start: Start, part: str, keep: tuple[str, ...] = ()) -> ZoomLDMPipeline:
    """Return the start for an autoencoder or patch encoder, which later stages use frozen.

    Args:
        start: what the run begins with.
        part: `vae` or `patch_encoder`.
        keep: further networks of the pipeline that stay valid.

    Raises:
        PipelineError: a pipeline whose network can't be trained.
    """
    given = start.given
    if given is None:
        return start.fresh
    own = getattr(given, part)
    if start.finetune and not isinstance(own, FoldedAutoencoder | LowPassAutoencoder | TileCNN):
        found = "none" if own is None else f"a {type(own).__name__}"
        raise PipelineError(f"--finetune: the stage can't train {found} ({part} of the pipeline)")
    parts = {
        name: getattr(start.fresh if name == part and not start.finetune else given, name)
        for name in ("unet", "vae", "summarizer", "patch_encoder")
    }
    parts |= {name: getattr(given, name) for name in keep}
    source = None if part == "patch_encoder" else _encoder_of(given)
    return ZoomLDMPipeline(**parts, scheduler=given.scheduler, source=source)


def start_embedding_diffusion(start: Start) -> ZoomLDMPipeline:
    """Return the start for the embedding diffusion, on the given summarizer.

    Raises:
        PipelineError: a pipeline without one to continue with, or with another summarizer.
        ConfigError: labels other than the pipeline's.
    """
    given, labels = start.frozen, list(start.labels)
    if not start.finetune:
        settings = preset_table(start.preset)["embedding_diffusion"] | {"labels": labels}
        return _with_embedding_diffusion(given, settings, start.config.seed)
    before = given.embedding_diffusion
    if not isinstance(before, ContextDiT):
        raise PipelineError("pipeline has no embedding diffusion of ours to go on with")
    if before.labels != labels:
        raise ConfigError(
            f"--finetune: the pipeline's embedding diffusion knows the labels {before.labels}, "
            f"now they are {labels}; give the same, or leave --finetune out"
        )
    return given


def start_context_network(start: Start) -> ZoomLDMPipeline:
    """Return the start for the context network, on the given summarizer and autoencoder.

    Raises:
        PipelineError: a pipeline whose denoiser takes no parent, with another summarizer, or
            without a context network to continue with.
    """
    given = start.frozen
    if not isinstance(given.unet, OctaveDenoiser):
        raise PipelineError(
            "this pipeline's denoiser takes no parent; a context network reads what one knows: "
            "give a pipeline of octaves"
        )
    summarizer = _eight_by_eight(given)
    if start.finetune:
        if given.context_network is None:
            raise PipelineError("pipeline has no context network to go on with")
        return given
    channels, side, _ = given.latent_shape
    settings = {
        **preset_table(start.preset).get("context_network", {}),
        "latent_channels": channels,
        "sample_size": side,
        "context_dim": summarizer.context_shape[1],
        "levels": given.levels,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(start.config.seed)
        return _with(given, context_network=ContextNetwork(**settings))


def _with(given: ZoomLDMPipeline, **parts: Any) -> ZoomLDMPipeline:
    """The pipeline with the given networks in place of its own."""
    own: dict[str, Any] = {name: getattr(given, name) for name in (*PARTS, "scheduler")}
    own["source"] = _encoder_of(given)
    return ZoomLDMPipeline(**(own | parts))


def start_denoiser(start: Start, frozen_summarizer: bool = False) -> ZoomLDMPipeline:
    """Return the start for summarizer and denoiser, on the given autoencoder and patch encoder.

    Args:
        start: what the run begins with.
        frozen_summarizer: use the given summarizer frozen; contexts then stay valid, and so do
            the networks that sample them.

    Raises:
        PipelineError: a pipeline with latents of another kind, or another summarizer.
        ConfigError: a frozen summarizer combined with another encoder's embeddings.
    """
    given, table, encoder = start.frozen, preset_table(start.preset), start.encoder
    parts = {
        "vae": given.vae,
        "patch_encoder": None if encoder else given.patch_encoder,
        "source": {"encoder": encoder.model_dump()} if encoder else _encoder_of(given),
    }
    if frozen_summarizer:
        if encoder:
            raise ConfigError(
                "freeze_summarizer: a summarizer that stays as it is can't read the embeddings of "
                "another encoder; leave --encoder or that setting out"
            )
        parts["embedding_diffusion"] = given.embedding_diffusion
        parts["context_network"] = given.context_network
    if start.finetune:
        summarizer = given.summarizer
        if encoder:
            summarizer = with_new_projection(summarizer, encoder.dim, start.config.seed)
        return ZoomLDMPipeline(
            **parts, unet=given.unet, summarizer=summarizer, scheduler=given.scheduler
        )
    channels, side, _ = given.latent_shape
    settings = {**table["unet"], "latent_channels": channels, "sample_size": side}
    kind = KINDS[settings.pop("kind", "unet")]
    if (kind is OctaveDenoiser) != isinstance(given.vae, LowPassAutoencoder):
        raise PipelineError(
            f"preset {start.preset} has a {kind.__name__}, the pipeline's latents are those of a "
            f"{type(given.vae).__name__}; give a pipeline of the same kind, or another preset"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(start.config.seed)
        sizes = {**table["summarizer"], "dim": encoder.dim if encoder else given.embedding_dim}
        summarizer = KINDS[sizes.pop("kind", "cnn")](**sizes)
        if frozen_summarizer:
            summarizer = _eight_by_eight(given)
            settings["context_dim"] = summarizer.context_shape[1]
        unet = kind(**settings)
    scheduler = start.fresh.scheduler
    return ZoomLDMPipeline(**parts, unet=unet, summarizer=summarizer, scheduler=scheduler)


# Layers of summarizers that read embeddings, by the prefixes of their weights' names.
_READ = ("project.", "unpackers.", "outline.")


def with_new_projection(summarizer: Any, dim: int, seed: int) -> Any:
    """A summarizer for the embeddings of another encoder: layers that read them are reinitialised.

    Args:
        summarizer: all other weights are taken from it.
        dim: D, dimension of the other embeddings.
        seed: seed of the new weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = type(summarizer).from_config({**summarizer.config, "dim": dim})
    held = summarizer.state_dict().items()
    result.load_state_dict({k: v for k, v in held if not k.startswith(_READ)}, strict=False)
    return result


def _with_embedding_diffusion(
    given: ZoomLDMPipeline, settings: dict[str, Any], seed: int
) -> ZoomLDMPipeline:
    """The pipeline with an untrained embedding diffusion that fits its summarizer."""
    summarizer = _eight_by_eight(given)
    settings = {k: v for k, v in settings.items() if k != "kind"} | {
        "context_dim": summarizer.context_shape[1],
        "reference_dim": given.embedding_dim,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _with(given, embedding_diffusion=ContextDiT(**settings))


def _encoder_of(given: ZoomLDMPipeline) -> dict[str, Any] | None:
    """The pipeline's record of the third-party encoder that it was trained with."""
    known = (given.config["source"] or {}).get("encoder")
    return {"encoder": known} if known else None


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
    """Write a pipeline directory: `base` with the networks of a run in place of its own.

    Args:
        base: provides every network that is not in `networks`, and the scheduler.
        networks: a run's `networks/`: folders `unet`, `summarizer`, `autoencoder`,
            `patch_encoder`, `embedding_diffusion` or `context_network`.
        out: the directory; replaced if it exists.
        half: store weights as float16. Networks that made archives must have been stored so
            before, since their digest changes with their weights.
    """
    parts = {name: getattr(base, name) for name in PARTS}
    for name, part in parts.items():
        folder = networks / ("autoencoder" if name == "vae" else name)
        if part is not None and folder.is_dir():
            parts[name] = type(part).from_pretrained(str(folder))
    if half:
        parts = {name: part and copy.deepcopy(part).half() for name, part in parts.items()}
    pipeline = ZoomLDMPipeline(**parts, scheduler=base.scheduler, source=base.config["source"])
    with atomic_folder(out) as fresh:
        pipeline.save_pretrained(str(fresh))
    return pipeline
