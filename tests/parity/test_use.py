"""What a converted checkpoint is for: pictures of archives, and training on them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from training.archives import make_archive

from zoomldm.archive import open_archive
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering import Cascade, RenderOptions
from zoomldm.training.stages.diffusion import DiffusionStage


@pytest.fixture(scope="module")
def archive(pipeline: ZoomLDMPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of random latents, for the reduced autoencoder takes its time over real ones."""
    folder = tmp_path_factory.mktemp("use")
    stand_in: Any = SimpleNamespace(
        embedding_dim=pipeline.embedding_dim,
        latent_shape=pipeline.latent_shape,
        digest=lambda name: pipeline.digest(name) if name == "vae" else "d" * 64,
    )
    return make_archive(folder / "a.zldm", stand_in)


def test_pictures_by_the_public_call(pipeline: ZoomLDMPipeline, archive: Path) -> None:
    with open_archive(archive) as opened:
        grid = opened.grid(1, 0, 0)[None]
    options = {"level": 1, "num_inference_steps": 1, "generator": torch.Generator().manual_seed(0)}
    pictures = pipeline(grid, output_type="np", **options).images
    assert pictures.shape == (1, 256, 256, 3)
    assert pictures.min() >= 0 and pictures.max() <= 1 and pictures.std() > 0


def test_a_patch_of_an_archive(pipeline: ZoomLDMPipeline, archive: Path) -> None:
    options = RenderOptions(steps=2, batch=1)
    with open_archive(archive) as opened, Cascade(opened, pipeline, options) as cascade:
        patch = cascade.patch(7, 0, 0)
    assert patch.shape == (256, 256, 3) and patch.dtype == np.uint8


def test_two_steps_of_training_move_its_own_networks(
    pipeline: ZoomLDMPipeline, archive: Path
) -> None:
    """The converted denoiser and summarizer go on being trained, towards a lower loss."""
    parts = {name: getattr(pipeline, name) for name in ("vae", "scheduler")}
    copied = {
        name: type(part).from_config(part.config)
        for name in ("unet", "summarizer")
        for part in (getattr(pipeline, name),)
    }
    for name, part in copied.items():
        part.load_state_dict(getattr(pipeline, name).state_dict())
    own = ZoomLDMPipeline(**parts, **copied, patch_encoder=None)
    with open_archive(archive) as opened:
        DiffusionStage(own, ArchivePatches([opened]))
        grids = torch.from_numpy(opened.grid(0, 1, 0)[None])
        clean = torch.from_numpy(opened.latents(0, [0]).astype(np.float32))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    time, level = torch.tensor([500]), torch.tensor([0])
    noisy = own.scheduler.add_noise(clean, noise, time)
    weights = [*own.unet.parameters(), *own.summarizer.parameters()]
    optimiser = torch.optim.SGD(weights, lr=1e-3)
    losses = []
    for _ in range(3):
        predicted = own.unet(noisy, time, own.summarizer(grids, level))
        loss = F.mse_loss(predicted, noise)
        losses.append(float(loss))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[2] < losses[1] < losses[0]
