"""Pixels as a base layer renders them, to train on base layers that are not stored."""

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from zoomldm.archive.borders import even_blocks


def as_base_layer(
    pixels: NDArray[np.uint8], quality: float, margin: int = 0, speed: int = 8
) -> NDArray[np.uint8]:
    """Encode an image as an AVIF base layer and decode it as archives are read.

    Args:
        pixels: (h, w, 3) sRGB.
        quality: quality of the codec, 0 to 100, rounded.
        margin: px around the image that the codec sees and that are then cut off.
        speed: speed of the codec, 0 to 10; base layers are encoded at 6.

    Returns:
        (h - 2 margin, w - 2 margin, 3).
    """
    data = imagecodecs.avif_encode(
        np.ascontiguousarray(pixels),
        level=round(quality),
        speed=speed,
        pixelformat="420",
        numthreads=1,
    )
    shown = even_blocks(imagecodecs.avif_decode(data))
    return shown[margin : len(shown) - margin, margin : shown.shape[1] - margin]
