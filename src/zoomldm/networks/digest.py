"""The digest of a network or scheduler: what it is, whatever it is called."""

import hashlib
import json
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

# Saved pipelines said "leading" while all verbs laid their timesteps "trailing": what is drawn
# did not change when the files were corrected, so its digest stays. Who lays them otherwise
# draws other images.
_SPACING = {"trailing": "leading", "leading": "laid leading"}


def component_digest(part: Any) -> str:
    """SHA-256 over configuration and weights of a component with diffusers' `config`.

    Args:
        part: a network (its weights count, in the type that they have) or a scheduler.
    """
    sha = hashlib.sha256(_configuration(part).encode())
    if isinstance(part, nn.Module):
        for key, value in sorted(part.state_dict().items()):
            sha.update(key.encode())
            sha.update(_raw(value))
    return sha.hexdigest()


def component_mark(part: Any) -> Hashable:
    """Something cheap that differs once configuration or weights do.

    Weights are told apart by where they lie and by PyTorch's count of changes in place.
    """
    tensors = part.state_dict().items() if isinstance(part, nn.Module) else ()
    return (
        id(part),
        _configuration(part),
        tuple((k, v.data_ptr(), v._version, v.dtype, v.device) for k, v in tensors),
    )


def _configuration(part: Any) -> str:
    """Configuration as JSON: options that networks were given later and that are unset left out."""
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
    """Bytes of a tensor of any type; NumPy knows no bfloat16."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
