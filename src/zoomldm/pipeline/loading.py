"""Pipelines by name: untrained ones from a preset, the shipped one, saved ones."""

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.utils import logging
from torch import nn

# diffusers loads a component only from an imported module, so every class that a saved pipeline
# may name is imported here, including the schedulers of converted ones.
import zoomldm.diffusion.samplers  # noqa: F401
from zoomldm.errors import PipelineError
from zoomldm.networks.autoencoder import FoldedAutoencoder
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.context_network import ContextNetwork
from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.embedding_dit import EmbeddingDiT
from zoomldm.networks.finite import check_finite
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import ViTSummarizer
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline.behind_url import fetch_url
from zoomldm.pipeline.hub import PREFIX, fetch_pipeline
from zoomldm.pipeline.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.presets import preset
from zoomldm.remote import is_url

SHIPPED = "demo"
KINDS: dict[str, Any] = {
    "unet": Denoiser,
    "octave": OctaveDenoiser,
    "cnn": CNNSummarizer,
    "vit": ViTSummarizer,
    "folded": FoldedAutoencoder,
    "lowpass": LowPassAutoencoder,
    "vq": VQAutoencoder,
    "context": ContextDiT,
    "context_network": ContextNetwork,
    "released": EmbeddingDiT,
}


def build_pipeline(name: str, seed: int = 0) -> ZoomLDMPipeline:
    """Untrained pipeline of a preset; the same weights for the same seed."""
    table = preset(name)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        return ZoomLDMPipeline(
            unet=_build_network(table["unet"], "unet"),
            vae=_build_network(table["vae"], "folded"),
            summarizer=_build_network(table["summarizer"], "cnn"),
            patch_encoder=TileCNN(**table["patch_encoder"]) if "patch_encoder" in table else None,
            scheduler=DDIMScheduler(**table["scheduler"]),
            embedding_diffusion=(
                _build_network(table["embedding_diffusion"], "released")
                if "embedding_diffusion" in table
                else None
            ),
        )
    finally:
        torch.random.set_rng_state(state)


def preset_kinds(name: str) -> dict[str, type]:
    """Class of each network of a preset, by its name in a pipeline."""
    usual = {
        "unet": "unet",
        "vae": "folded",
        "summarizer": "cnn",
        "embedding_diffusion": "released",
    }
    table = preset(name)
    return {
        part: KINDS[table[part].get("kind", kind)] for part, kind in usual.items() if part in table
    }


def _build_network(settings: dict[str, Any], kind: str) -> Any:
    settings = dict(settings)
    return KINDS[settings.pop("kind", kind)](**settings)


def pick_device(name: str = "auto") -> torch.device:
    """A device by PyTorch's name; `auto` is the first GPU, or the CPU if there is none.

    Raises:
        PipelineError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        found = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise PipelineError(f"device {name!r} can't be used; here are {found}") from error


def load_pipeline(name: str = SHIPPED, device: str = "cpu") -> ZoomLDMPipeline:
    """Load a pipeline: shipped, untrained, of a directory, of a URL, or from the hub.

    `demo` is shipped, `tiny` and `tiny-octaves` are untrained.

    `hf:OWNER/NAME@REVISION` is downloaded once from the Hugging Face hub into its cache; a folder
    behind a URL (`s3://bucket/pipeline/`) is downloaded if it is new or has changed.

    Args:
        name: name of the pipeline.
        device: see `pick_device`.

    Raises:
        PipelineError: nothing of that name, a directory without a pipeline, or no such device.

    Examples:
        >>> import zoomldm
        >>> pipeline = zoomldm.load_pipeline("tiny")
        >>> pipeline.levels, pipeline.embedding_dim
        (8, 32)
    """
    place = pick_device(device)
    try:
        return _loaded(name).to(place)
    except torch.OutOfMemoryError as error:
        raise PipelineError(
            f"pipeline {name!r}: does not fit into the memory of {place}; give another --device, "
            "or end what else runs there"
        ) from error


def find_pipeline(name: str) -> Path | None:
    """Folder of a pipeline, None for one that is built, not saved. It may not exist.

    Raises:
        PipelineError: a pipeline on the hub or behind a URL can't be downloaded.
    """
    if name in ("tiny", "tiny-octaves"):
        return None
    if name == SHIPPED:
        return Path(str(resources.files("zoomldm") / "weights" / "demo"))
    if name.startswith(PREFIX):
        return fetch_pipeline(name)
    if is_url(name):
        return fetch_url(name)
    return Path(name)


def _loaded(name: str) -> ZoomLDMPipeline:
    folder = find_pipeline(name)
    if folder is None:
        return build_pipeline(name)
    if not (folder / "model_index.json").is_file():
        found = "a directory without model_index.json" if folder.is_dir() else "no such directory"
        raise PipelineError(
            f"pipeline {name!r}: {found}; expected 'demo', 'tiny' or a directory that "
            "`zoomldm train` or save_pretrained wrote"
        )
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # not informative for five small files
    try:
        pipeline = ZoomLDMPipeline.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True
        )
    except torch.OutOfMemoryError:  # of the GPU; the files are not at fault
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise PipelineError(f"pipeline {folder}: can't be loaded ({_one_line(error)})") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    for name, network in pipeline.components.items():
        if isinstance(network, nn.Module):
            tensors = network.state_dict().items()
            check_finite(folder, ((f"{name}.{key}", value) for key, value in tensors))
            # Mapped weights lie at arbitrary addresses, and rounding depends on their alignment.
            for values in [*network.parameters(), *network.buffers()]:
                values.data = values.data.clone()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
