"""The demo patch encoder."""

import torch

from zoomldm.networks.patch_encoder import TileCNN

SMALL = {"dim": 16, "widths": (8, 8, 8, 8), "map_channels": 2}


@torch.no_grad()
def test_embeds_tiles() -> None:
    network = TileCNN(**SMALL).eval()
    tiles = torch.rand(3, 3, 256, 256)
    codes = network(tiles)
    assert codes.shape == (3, 16)
    small = torch.nn.functional.avg_pool2d(tiles, 2)
    torch.testing.assert_close(codes, network(small))


@torch.no_grad()
def test_grey_ignores_hue() -> None:
    network = TileCNN(grey=True, **SMALL).eval()
    tile = torch.rand(1, 3, 256, 256)
    grey = (tile * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(network(tile), network(grey.expand(-1, 3, -1, -1)))
