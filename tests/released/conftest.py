"""A small system under the released names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zoomldm.diffusion.samplers import PLMSScheduler
from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import ViTSummarizer
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.presets import SCHEDULE
from zoomldm.released import names


@pytest.fixture(scope="module")
def small() -> ZoomLDMPipeline:
    return ZoomLDMPipeline(
        unet=Denoiser(
            latent_channels=3, fold=1, spatial_context=0, widths=(32, 32), depth=1, heads=1,
            context_dim=32, attention=(False, True), sample_size=8,
        ),
        vae=VQAutoencoder(codebook=16, widths=(32, 32), depth=1),
        summarizer=ViTSummarizer(dim=8, width=32, hidden=16, context_dim=32, levels=4, depth=1),
        patch_encoder=None,
        scheduler=PLMSScheduler(**SCHEDULE),
    )  # fmt: skip


@pytest.fixture
def content(small: ZoomLDMPipeline) -> dict[str, torch.Tensor]:
    """State dict of a system under the released names."""
    out = {name: torch.zeros(1000) for name in names.BUFFERS}
    out["betas"] = small.scheduler.betas.clone()
    for key, value in small.unet.state_dict().items():
        name = names.UNET + names.unet_name(key, small.unet)
        out[name], out[names.average_name(name)] = value, value + 1
    out |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1)}
    for key, value in small.vae.state_dict().items():
        name = names.autoencoder_name(key, small.vae)
        conv = ".attn_1." in name and name.endswith("weight") and value.ndim == 2
        out[names.AUTOENCODER + name] = value[:, :, None, None] if conv else value
    for key, value in small.summarizer.state_dict().items():
        out[names.SUMMARIZER + names.summarizer_name(key, {})] = value
    return out


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], Path]:
    def write(value: object) -> Path:
        torch.save(value, tmp_path / "weights.ckpt")
        return tmp_path / "weights.ckpt"

    return write
