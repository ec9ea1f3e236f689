"""The moving average of the trained weights, which is the result of a run."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """Exponential moving average of networks.

    Weights and floating-point buffers (running statistics) are averaged alike, so that statistics
    match the weights they are used with; counters are copied.

    Args:
        networks: networks to average, by name; copied as they are now.
        decay: largest decay; it begins at 1/10 and rises as (1 + step) / (10 + step).
    """

    def __init__(self, networks: dict[str, nn.Module], decay: float) -> None:
        self.networks = {k: copy.deepcopy(v).requires_grad_(False) for k, v in networks.items()}
        self.decay = decay

    def to(self, device: torch.device | str) -> None:
        """Move the averages to a device, which need not be that of the weights."""
        for network in self.networks.values():
            network.to(device)

    @torch.no_grad()
    def update(self, networks: dict[str, nn.Module], step: int) -> None:
        """Include the weights after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.networks.items():
            source = networks[name].state_dict()
            for key, value in average.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(source[key].to(value), 1 - decay)
                else:
                    value.copy_(source[key])

    @torch.no_grad()
    def _exchange(self, networks: dict[str, nn.Module]) -> None:
        for name, live in networks.items():
            average = self.networks[name].state_dict()
            for key, value in live.state_dict().items():
                held = value.clone()
                value.copy_(average[key])
                average[key].copy_(held)

    @contextmanager
    def swapped(self, networks: dict[str, nn.Module]) -> Iterator[None]:
        """Swap the averaged weights into `networks`, in evaluation mode, within the block."""
        modes = {k: v.training for k, v in networks.items()}
        self._exchange(networks)
        for network in networks.values():
            network.eval()
        try:
            yield
        finally:
            self._exchange(networks)
            for name, network in networks.items():
                network.train(modes[name])
