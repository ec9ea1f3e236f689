"""Half precision: the dtype that a network's inputs need, and whether bfloat16 is worthwhile."""

import logging
import time
import warnings
from functools import cache

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)


def dtype_of(network: object) -> torch.dtype:
    """Floating point dtype of a network's weights; float32 if it has none."""
    if isinstance(network, nn.Module):
        for values in (*network.parameters(), *network.buffers()):
            if values.is_floating_point():
                return values.dtype
    return torch.float32


def fitted(values: Tensor, network: object) -> Tensor:
    """Floating point values of any shape, cast to the dtype of a network's weights."""
    return values.to(dtype_of(network))


def widened(values: Tensor, network: object) -> Tensor:
    """A half precision network's output as float32; a float32 network's output unchanged."""
    return values if dtype_of(network) == torch.float32 else values.float()


def full_precision(device: torch.device) -> torch.autocast:
    """Context manager within which autocast leaves float32 alone.

    Args:
        device: of the values; a type without autocast is no error.
    """
    known = torch.amp.autocast_mode.is_autocast_available(device.type)
    return torch.autocast(device.type if known else "cpu", enabled=False)


@cache
def fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster than float32 here; measured once per process and logged.

    Processors without it emulate it, which takes up to a hundred times as long.

    Args:
        device: device type, such as `cpu` or `cuda`.
    """
    if device == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
        _log.info("bfloat16 %s by this GPU", "is supported" if faster else "is not supported")
        return faster
    if device != "cpu":
        return False
    whole, half = (_seconds(kind) for kind in (torch.float32, torch.bfloat16))
    faster = half < 0.9 * whole
    _log.info(
        "%s is chosen on this CPU: a convolution takes %.1f ms in float32, %.1f in bfloat16",
        "bfloat16" if faster else "float32",
        whole * 1e3,
        half * 1e3,
    )
    return faster


@torch.no_grad()
def _seconds(kind: torch.dtype) -> float:
    """Shortest time of a few convolutions of a denoiser's size, in seconds."""
    x, weight = torch.ones(2, 96, 32, 32, dtype=kind), torch.ones(96, 96, 3, 3, dtype=kind)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        torch.conv2d(x, weight, padding=1)
        times.append(time.perf_counter() - start)
        if times[-1] > 0.5:
            break
    return min(times)


@cache
def warn_if_slow(device: str) -> None:
    """Warn, once per process, if bfloat16 was requested and is emulated."""
    if device in ("cpu", "cuda") and not fast_bfloat16(device):
        warnings.warn(
            "bfloat16 is not faster than float32 on this machine, which emulates it or lacks the "
            "instructions, and may be many times slower; float32 is exact",
            stacklevel=3,
        )
