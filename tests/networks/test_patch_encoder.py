"""The demo patch encoder."""

import torch

from zoomldm.networks.patch_encoder import LAYOUT_SCALE, TileCNN

SMALL = {"dim": 16, "layout": 4, "widths": (8, 8, 8, 8), "map_channels": 2}


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


@torch.no_grad()
def test_layout_weighs_little_and_tells_where() -> None:
    network = TileCNN(**SMALL).train()
    tiles = torch.rand(32, 3, 128, 128) * torch.rand(32, 3, 1, 1)
    codes = network(tiles)
    deviation = codes.std(0)
    torch.testing.assert_close(deviation[:12], torch.ones(12), atol=0.1, rtol=0)
    torch.testing.assert_close(deviation[12:], torch.full((4,), LAYOUT_SCALE), atol=0.1, rtol=0)


@torch.no_grad()
def test_without_layout_all_is_of_the_make() -> None:
    network = TileCNN(**{**SMALL, "layout": 0}).eval()
    assert network(torch.rand(2, 3, 128, 128)).shape == (2, 16)
    assert not hasattr(network, "place")
