"""Convert a published checkpoint to a pipeline directory."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from zoomldm.diffusion.samplers import PLMSScheduler
from zoomldm.errors import ConfigError, PipelineError, TargetError
from zoomldm.files import atomic_folder, atomic_path
from zoomldm.networks.checkpoint import Mismatches, Tensors, fill, read_checkpoint
from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.embedding_dit import EmbeddingDiT
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import TOKENS, ViTSummarizer
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.presets import SCHEDULE
from zoomldm.released.names import (
    AUTOENCODER,
    AVERAGE,
    BUFFERS,
    SUMMARIZER,
    UNET,
    autoencoder_config,
    autoencoder_name,
    average_name,
    embedding_diffusion_config,
    embedding_diffusion_name,
    summarizer_config,
    summarizer_name,
    unet_config,
    unet_name,
)
from zoomldm.verbs import Progress, Report, silent

Weights = Literal["ema", "raw"]
INDEX = "model_index.json"


@dataclass(frozen=True)
class ConvertOptions:
    """Which weights to take from a checkpoint.

    Attributes:
        weights: `ema`, the averaged weights, or `raw`, those of the last training step. In a
            whole system only the denoiser has averaged weights.
    """

    weights: Weights = "ema"

    def __post_init__(self) -> None:
        if self.weights not in get_args(Weights):
            raise ConfigError(f"weights {self.weights!r}; expected ema or raw")


@dataclass(frozen=True)
class ConvertReport(Report):
    """Result of `convert_released`.

    Attributes:
        pipeline: the directory.
        checkpoint: the source.
        sha256: SHA-256 of the source.
        weights: `ema` or `raw`.
        parameters: number of parameters of each converted network.
        embedding_dim: D, the embedding dimension that the system is conditioned on; None for an
            embedding diffusion alone.
        levels: number of levels.
        done_before: whether the directory already held this conversion.
    """

    pipeline: str
    checkpoint: str
    sha256: str
    weights: Weights
    parameters: dict[str, int] = field(default_factory=dict)
    embedding_dim: int | None = None
    levels: int | None = None
    done_before: bool = False


def convert_released(
    checkpoint: Path | str,
    out: Path | str,
    options: ConvertOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ConvertReport:
    """Convert a published checkpoint to a pipeline directory.

    A whole system becomes a new pipeline without patch encoder. An embedding diffusion (the
    `{model, ema, opt, args}` file) is added to the pipeline in `out`, or becomes a pipeline of
    its own. All sizes are read from the tensors; nothing in the file is executed.

    Args:
        checkpoint: file written by torch.save.
        out: directory to create, in an existing folder.
        options: see ConvertOptions.
        progress: called before and after the checkpoint is read.

    Raises:
        PipelineError: the checkpoint is damaged, unsafe, of another model, or has missing or
            extra keys or other shapes, which are listed.
        TargetError: `out` can't be created or holds something else.

    Examples:
        >>> import zoomldm
        >>> report = zoomldm.convert_released("brca.ckpt", "brca")  # doctest: +SKIP
        >>> pipeline = zoomldm.load_pipeline("brca")  # doctest: +SKIP
    """
    checkpoint, out = Path(checkpoint), Path(out)
    weights, progress = (options or ConvertOptions()).weights, progress or silent
    progress("reading", 0, 1)
    if not checkpoint.is_file():
        raise PipelineError(
            f"{checkpoint}: no such file; expected a checkpoint such as weights.ckpt"
        )
    if not out.resolve().parent.is_dir():
        raise TargetError(f"{out}: folder {out.parent} does not exist; create it first")
    with checkpoint.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {"file": checkpoint.name, "sha256": sha256, "weights": weights}
    content = read_checkpoint(checkpoint)
    progress("reading", 1, 1)
    report: dict[str, Any] = {
        "pipeline": str(out),
        "checkpoint": str(checkpoint),
        "sha256": sha256,
        "weights": weights,
    }
    held = _source(out)
    if _is_embedding_diffusion(content):
        if held.get("embedding_diffusion") == provenance:
            return ConvertReport(**report, done_before=True)
        network = _embedding_diffusion(checkpoint, content, weights)
        _add_embedding_diffusion(network, out, provenance)
        count = {"embedding_diffusion": _count(network)}
        return ConvertReport(**report, parameters=count, levels=network.config["levels"])
    if held.get("system") == provenance:
        return ConvertReport(**report, done_before=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TargetError(f"{out}: holds something already; name a directory that does not exist")
    parts = _system(checkpoint, content, weights)
    _save(ZoomLDMPipeline(**parts, patch_encoder=None, source={"system": provenance}), out)
    return ConvertReport(
        **report,
        parameters={k: _count(v) for k, v in parts.items() if isinstance(v, nn.Module)},
        embedding_dim=parts["summarizer"].config["dim"],
        levels=parts["summarizer"].config["levels"],
    )


def _names(network: nn.Module, renamed: Callable[[str], str]) -> dict[str, str]:
    return {k: renamed(k) for k in network.state_dict()}


def _system(path: Path, content: Any, weights: Weights) -> dict[str, Any]:
    """Load networks and scheduler of a whole system."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise PipelineError(
            f"{path}: holds a {type(content).__name__}; expected a ZoomLDM state dict"
        )
    tensors = Tensors(path, content)
    scheduler = PLMSScheduler(**_schedule(tensors))
    with torch.device("meta"):
        unet = Denoiser(**unet_config(tensors))
        vae = VQAutoencoder(**autoencoder_config(tensors))
        summarizer = ViTSummarizer(**summarizer_config(tensors))
    sources = {
        "unet": _names(unet, lambda k: UNET + unet_name(k, unet)),
        "vae": _names(vae, lambda k: AUTOENCODER + autoencoder_name(k, vae)),
        "summarizer": _names(summarizer, lambda k: SUMMARIZER + summarizer_name(k, tensors)),
    }
    mismatches = Mismatches(tensors)
    for name in BUFFERS:
        mismatches.expect(name, tensors["betas"].shape)
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "summarizer": summarizer}
    for part, names in sources.items():
        for key, value in parts[part].state_dict().items():
            mismatches.expect(names[key], value.shape)
    average = {k: average_name(v) for k, v in sources["unet"].items()}
    if weights == "ema" and not any(k.startswith(AVERAGE) for k in tensors):
        raise PipelineError(
            f"{path}: holds no averaged weights ({AVERAGE}...); pass --raw for those of the "
            "last training step"
        )
    if any(k.startswith(AVERAGE) for k in tensors):
        for key, value in unet.state_dict().items():
            mismatches.expect(average[key], value.shape)
        mismatches.expect(AVERAGE + "decay", ())
        mismatches.expect(AVERAGE + "num_updates", ())
    mismatches.check()
    if weights == "ema":
        sources["unet"] = average
    for part, names in sources.items():
        fill(parts[part], tensors, names)
    return {**parts, "scheduler": scheduler}


def _schedule(tensors: Tensors) -> dict[str, Any]:
    """Return scheduler settings, with start and end read from `betas`; check the curve's shape.

    A checkpoint pruned to half precision has the released betas, rounded. If they agree within
    the precision of their type, the released start and end are used.
    """
    betas = tensors["betas"]
    if not betas.is_floating_point() or not len(betas):
        raise PipelineError(f"{tensors.path}: betas are {betas.dtype}; expected a schedule")
    tolerance = max(1e-4, 2 * torch.finfo(betas.dtype).eps)
    betas = betas.double()
    read = round(float(betas[0]), 7), round(float(betas[-1]), 7)
    ends = [(SCHEDULE["beta_start"], SCHEDULE["beta_end"])] if tolerance > 1e-4 else []
    for start, end in [*ends, read]:
        expected = torch.linspace(start**0.5, end**0.5, len(betas), dtype=torch.float64) ** 2
        if torch.allclose(betas, expected, rtol=tolerance):
            return {
                **SCHEDULE,
                "num_train_timesteps": len(betas),
                "beta_start": start,
                "beta_end": end,
                "prediction_type": "epsilon",
            }
    raise PipelineError(
        f"{tensors.path}: betas from {read[0]} to {read[1]} are not linear in their square root; "
        "expected the released schedule"
    )


def _is_embedding_diffusion(content: Any) -> bool:
    return isinstance(content, dict) and "x_embedder.weight" in (
        content.get("ema") or content.get("model") or content
    )


def _embedding_diffusion(path: Path, content: dict[str, Any], weights: Weights) -> EmbeddingDiT:
    key = "ema" if weights == "ema" else "model"
    if "x_embedder.weight" not in content and key not in content:
        raise PipelineError(f"{path}: holds no {key!r}; pass --{'raw' if key == 'ema' else 'ema'}")
    tensors = Tensors(path, content.get(key) or content)
    with torch.device("meta"):
        network = EmbeddingDiT(**embedding_diffusion_config(tensors))
    names = _names(network, embedding_diffusion_name)
    mismatches = Mismatches(tensors)
    for name, value in network.state_dict().items():
        mismatches.expect(names[name], value.shape)
    mismatches.check()
    fill(network, tensors, names)
    return network


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _source(out: Path) -> dict[str, Any]:
    """Read where the parts of a pipeline directory come from; empty if not recorded."""
    try:
        return dict(json.loads((out / INDEX).read_text()).get("source") or {})
    except (OSError, ValueError, AttributeError):
        return {}


def _save(pipeline: ZoomLDMPipeline, out: Path) -> None:
    """Write a pipeline directory, whole or not at all."""
    with atomic_folder(out.resolve()) as fresh:
        pipeline.save_pretrained(fresh, safe_serialization=True)


def _add_embedding_diffusion(network: EmbeddingDiT, out: Path, provenance: dict[str, str]) -> None:
    """Add the network to the pipeline at `out`, or make a pipeline with nothing else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        nothing = dict.fromkeys(("unet", "vae", "summarizer", "patch_encoder", "scheduler"))
        source = {"embedding_diffusion": provenance}
        _save(ZoomLDMPipeline(**nothing, embedding_diffusion=network, source=source), out)
        return
    if not (out / INDEX).is_file():
        raise TargetError(f"{out}: holds something else than a pipeline; name another directory")
    index = json.loads((out / INDEX).read_text())
    if (index.get("embedding_diffusion") or [None])[0] is not None:
        raise TargetError(f"{out}: has another embedding diffusion already")
    shape = _context_shape(out)
    own = (network.config["tokens"], network.config["context_dim"])
    if shape is not None and shape != own:
        raise PipelineError(
            f"{out}: its summarizer makes contexts of {shape}; the embedding diffusion draws {own}"
        )
    index["embedding_diffusion"] = [type(network).__module__, type(network).__name__]
    index["source"] = {**(index.get("source") or {}), "embedding_diffusion": provenance}
    with atomic_folder(out / "embedding_diffusion") as fresh:
        network.save_pretrained(fresh, safe_serialization=True)
    with atomic_path(out / INDEX) as changed:  # lists the network only once it is written
        changed.write_text(json.dumps(index, indent=2) + "\n")


def _context_shape(out: Path) -> tuple[int, int] | None:
    try:
        config = json.loads((out / "summarizer" / "config.json").read_text())
    except (OSError, ValueError):
        return None
    tokens = TOKENS + 1 if config.get("_class_name") == "ViTSummarizer" else TOKENS
    return tokens, config.get("context_dim", 512)
