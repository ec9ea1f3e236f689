"""Pixels to [-1, 1] and back."""

import numpy as np
import torch

from zoomldm.pixels import to_pixels, to_signed


def every_value() -> np.ndarray:
    return np.arange(256, dtype=np.uint8).reshape(1, 8, 32, 1).repeat(3, 3)


def test_there_and_back_is_exact() -> None:
    signed = to_signed(every_value())
    assert signed.shape == (1, 3, 8, 32) and signed.dtype == torch.float32
    assert signed.min() == -1 and signed.max() == 1
    np.testing.assert_array_equal(to_pixels(signed), every_value())


def test_tensors_as_arrays() -> None:
    pixels = every_value()[:, ::2]  # not contiguous
    assert torch.equal(to_signed(torch.from_numpy(pixels)), to_signed(pixels))


def test_clamped_and_rounded() -> None:
    x = torch.tensor([-2.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 3]).view(1, 1, 1, 4)
    assert to_pixels(x.expand(1, 3, 1, 4).half())[0, 0, :, 0].tolist() == [0, 0, 1, 255]
