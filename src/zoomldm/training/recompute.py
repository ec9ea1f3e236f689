"""Gradient checkpointing: activations of blocks are recomputed in the backward pass."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Let modules store only their inputs in training (Chen et al. 2016).

    Gradients do not change. A block must not draw random numbers.

    Args:
        blocks: modules without running statistics; for a U-Net of diffusers, its own blocks.
    """
    for block in blocks:
        if isinstance(block, UNet2DConditionModel):
            block.enable_gradient_checkpointing()
        else:
            block.forward = partial(_forward, block, block.forward)


def _forward(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if block.training and torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
    return forward(*args, **kwargs)
