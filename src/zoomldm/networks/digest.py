"""The digest of a network or scheduler: identifies its content, independent of its name."""

import hashlib
import json
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

# Saved pipelines said "leading" although all verbs used "trailing" timesteps. Correcting the files
# did not change the images, so the digest stays the same. A real "leading" scheduler gives other
# images.
_SPACING = {"trailing": "leading", "leading": "laid leading"}


def component_digest(part: Any) -> str:
    """SHA-256 over configuration and weights of a component with diffusers' `config`.

    Args:
        part: a network (with its weights, in their own dtype) or a scheduler.
    """
    sha = hashlib.sha256(_configuration(part).encode())
    if isinstance(part, nn.Module):
        for key, value in sorted(part.state_dict().items()):
            sha.update(key.encode())
            sha.update(_raw(value))
    return sha.hexdigest()


def component_mark(part: Any) -> Hashable:
    """A cheap key that changes when the configuration or the weights do.

    Weights are told apart by their memory address and PyTorch's count of in-place changes.
    """
    tensors = part.state_dict().items() if isinstance(part, nn.Module) else ()
    return (
        id(part),
        _configuration(part),
        tuple((k, v.data_ptr(), v._version, v.dtype, v.device) for k, v in tensors),
    )


def _configuration(part: Any) -> str:
    """Configuration as JSON, without a network's unset options, as later versions add some."""
    network = isinstance(part, nn.Module)
    config = {
        k: v
        for k, v in dict(part.config).items()
        if not k.startswith("_") and not (network and v in (None, (), []))
    }
    if not network:
        kind = type(part).__name__
        if kind != "DDIMScheduler":
            config["class"] = kind
        elif config.get("timestep_spacing") in _SPACING:
            config["timestep_spacing"] = _SPACING[config["timestep_spacing"]]
    return json.dumps(config, sort_keys=True, default=str)


def _raw(value: Tensor) -> bytes:
    """Bytes of a tensor of any dtype, including bfloat16, which NumPy lacks."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
