"""Refuses NaN and infinite weights before they produce black images."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from zoomldm.errors import PipelineError

SHOWN = 3


def check_finite(where: Path | str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse tensors with NaN or infinite values.

    Args:
        where: file or folder that they come from, for the message.
        tensors: (name, tensor of any dtype and shape) pairs; integers always pass.

    Raises:
        PipelineError: some tensors are not finite; names the first few.
    """
    found = [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and tensor.device.type != "meta"
        # 8-bit float types have no isfinite of their own.
        if not bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())
    ]
    if found:
        rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise PipelineError(
            f"{where}: NaN or infinite values in {', '.join(found[:SHOWN])}{rest}; expected finite "
            "weights: training diverged or the file is damaged, take an earlier checkpoint or "
            "download it again"
        )
