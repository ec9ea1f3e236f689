"""The demo autoencoder."""

import torch

from zoomldm.networks.autoencoder import FoldedAutoencoder

SMALL = {
    "latent_channels": 4,
    "encoder_widths": (8, 16),
    "encoder_depths": (1, 1),
    "decoder_widths": (8, 16),
    "decoder_depths": (1, 1),
}


@torch.no_grad()
def test_factor_is_eight() -> None:
    network = FoldedAutoencoder(**SMALL).eval()
    latents = network.encode(torch.rand(1, 3, 64, 96) * 2 - 1)
    assert latents.shape == (1, 4, 8, 12)
    assert network.decode(latents).shape == (1, 3, 64, 96)


@torch.no_grad()
def test_latents_are_standardised() -> None:
    network = FoldedAutoencoder(**SMALL).train()
    network.encoder[-1].weight.mul_(100)  # far above the epsilon of the statistics
    for _ in range(300):
        network.encode(torch.rand(8, 3, 32, 32) * 2 - 1)
    network.eval()
    latents = network.encode(torch.rand(64, 3, 32, 32) * 2 - 1)
    assert latents.mean((0, 2, 3)).abs().max() < 0.15
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.15
