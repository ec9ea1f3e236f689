"""Adam over few long vectors in place of many small tensors."""

from collections.abc import Iterable

import torch
from torch import Tensor

from zoomldm.mil.models.attention import BagModel

_LANES = 16  # floats that a vector register holds, at most
_CHUNK = 1 << 18  # numbers updated at a time: what they need stays in the cache
_FIRST, _SECOND, _EPS = 0.9, 0.999, 1e-8


class PackedAdam:
    """PyTorch's default Adam (L2 weight decay), each part of the model packed into one vector.

    It takes the same operations in the same order, so that weights agree with those of
    `torch.optim.Adam` to the bit. A part that a bag doesn't train is left alone, as Adam leaves a
    parameter without gradient.

    Args:
        model: its parameters become views into the packed vectors.
        rate: learning rate.
        decay: L2 weight decay.
    """

    def __init__(self, model: BagModel, rate: float, decay: float) -> None:
        self.rate, self.decay = rate, decay
        self.parts: list[list[tuple[Tensor, ...]]] = []
        for part in model.parts():
            # Odd sizes last: what runs through vector registers then is what does so in a tensor
            # of its own, and the rounding is the same to the bit.
            part = sorted(part, key=lambda p: p.numel() % _LANES > 0)
            vector = torch.cat([p.detach().flatten() for p in part])
            gradient = torch.zeros_like(vector)
            at = 0
            for parameter in part:
                span = slice(at, at + parameter.numel())
                parameter.data = vector[span].view_as(parameter)
                parameter.grad = gradient[span].view_as(parameter)
                at = span.stop
            columns = (vector, gradient, torch.zeros_like(vector), torch.zeros_like(vector))
            self.parts.append(list(zip(*(c.split(_CHUNK) for c in columns), strict=True)))
        self.steps = [0] * len(self.parts)

    def step(self, trained: Iterable[int]) -> None:
        """Update the trained parts from their gradients and zero those."""
        for i in trained:
            self.steps[i] += 1
            rate = self.rate / (1 - _FIRST ** self.steps[i])
            scale = (1 - _SECOND ** self.steps[i]) ** 0.5
            for vector, gradient, first, second in self.parts[i]:
                gradient.add_(vector, alpha=self.decay)
                first.lerp_(gradient, 1 - _FIRST)
                second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
                torch.sqrt(second, out=gradient).div_(scale).add_(_EPS)
                vector.addcdiv_(first, gradient, value=-rate)
                gradient.zero_()
