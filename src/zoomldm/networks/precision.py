"""Networks in half precision: which type their inputs must have."""

import torch
from torch import Tensor, nn


def dtype_of(network: object) -> torch.dtype:
    """Floating type of a network's weights; float32 where it has none."""
    if isinstance(network, nn.Module):
        for values in (*network.parameters(), *network.buffers()):
            if values.is_floating_point():
                return values.dtype
    return torch.float32


def fitted(values: Tensor, network: object) -> Tensor:
    """Floating point values of any shape in the type of a network's weights."""
    return values.to(dtype_of(network))


def widened(values: Tensor, network: object) -> Tensor:
    """What a network made in half precision as float32; of float32 networks what it is."""
    return values if dtype_of(network) == torch.float32 else values.float()
