"""Weights behind the tapes, drawn again: a tape holds names, shapes and a seed in their place."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Shapes = Mapping[str, list[int]]


def network_weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """One network's, in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in sorted(shapes):
        values = torch.randn(shapes[name], generator=generator)
        if values.dim() < 2:
            values = 0.1 * values + float(name.endswith("weight"))
        elif "embed" in name or "pad_token" in name:
            values = 0.5 * values
        else:
            values = values / math.sqrt(values[0].numel())
        found[name] = values
    return found


def averaged_weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """The averaged copy in a whole checkpoint, in the order of the tape."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        scale = 1 / math.sqrt(values[0].numel()) if len(shape) > 1 else 0.1
        found[name] = values * scale + float(len(shape) == 1 and name.endswith("weight"))
    return found


def whole_checkpoint(tape: Mapping[str, Any]) -> dict[str, Tensor]:
    """The reduced `weights.ckpt`: denoiser, its average, autoencoder, summarizer, schedule."""
    found = dict(tape["buffers"])
    for prefix, part in tape["parts"].items():
        values = network_weights(part["shapes"], part["seed"])
        found |= {f"{prefix}.{name}": value for name, value in values.items()}
    average = averaged_weights(tape["ema"]["shapes"], tape["ema"]["seed"])
    return found | {f"model_ema.{name}": value for name, value in average.items()}
