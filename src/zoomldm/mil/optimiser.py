"""Adam over few long vectors in place of many small tensors."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

from zoomldm.mil.attention import BagModel

_LANES = 16  # floats that a vector register holds, at most


class PackedAdam:
    """PyTorch's fused Adam (L2 weight decay), each part of the model packed into one vector.

    A part that a bag doesn't train is left alone, as Adam leaves a parameter without gradient.

    Args:
        model: its parameters become views into the packed vectors.
        rate: learning rate.
        decay: L2 weight decay.
    """

    def __init__(self, model: BagModel, rate: float, decay: float) -> None:
        self.rate, self.decay = rate, decay
        self.parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
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
            moments = torch.zeros_like(vector), torch.zeros_like(vector)
            self.parts.append((vector, gradient, *moments, torch.zeros(())))

    def step(self, trained: Iterable[int]) -> None:
        """Update the trained parts from their gradients and zero those."""
        chosen = [self.parts[i] for i in trained]
        vectors, gradients, first, second, steps = (
            list(column) for column in zip(*chosen, strict=True)
        )
        adam(
            vectors,
            gradients,
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.rate,
            weight_decay=self.decay,
            eps=1e-8,
            maximize=False,
        )
        for gradient in gradients:
            gradient.zero_()
