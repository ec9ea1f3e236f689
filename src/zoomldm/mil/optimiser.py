"""Adam over few long vectors in place of many small tensors."""

from collections.abc import Iterable

import torch
from torch import Tensor

from zoomldm.mil.attention import BagModel


class PackedAdam:
    """PyTorch's fused Adam (L2 weight decay), each part of the model packed into one vector.

    A part that a bag doesn't train is left alone, as Adam leaves a parameter without gradient.

    Args:
        model: its parameters become views into the packed vectors.
        rate: learning rate.
        decay: L2 weight decay.
    """

    def __init__(self, model: BagModel, rate: float, decay: float) -> None:
        self.packed: list[torch.nn.Parameter] = []
        self.gradients: list[Tensor] = []
        for part in model.parts():
            vector = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in part]))
            gradient = torch.zeros_like(vector)
            at = 0
            for parameter in part:
                span = slice(at, at + parameter.numel())
                parameter.data = vector.data[span].view_as(parameter)
                parameter.grad = gradient[span].view_as(parameter)
                at = span.stop
            self.packed.append(vector)
            self.gradients.append(gradient)
        self.adam = torch.optim.Adam(self.packed, lr=rate, weight_decay=decay, fused=True)

    def step(self, trained: Iterable[int]) -> None:
        """Update the trained parts from their gradients and zero those."""
        chosen = set(trained)
        for index, (vector, gradient) in enumerate(zip(self.packed, self.gradients, strict=True)):
            vector.grad = gradient if index in chosen else None
        self.adam.step()
        for index in chosen:
            self.gradients[index].zero_()
