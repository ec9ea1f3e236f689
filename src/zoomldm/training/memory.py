"""Device memory that a training stage takes, estimated without allocating it.

The networks are built at full size from PyTorch's fake tensors. Like tensors on the `meta` device
they have shapes and no values, but they report the CPU as their device, so that autocast applies.
A step is run on them, forward and backward, and every storage that it allocates is counted for as
long as it lives.
"""

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoomldm.training.recompute import recompute
from zoomldm.training.stage import Stage, Start

COUNTER = 4  # bytes of AdamW's step counter for each tensor


@dataclass(frozen=True)
class MemoryEstimate:
    """Device memory in bytes that a training stage takes, in each process.

    Attributes:
        stage: name of the stage.
        batch: items held at once.
        trained: number of trained parameters.
        parameters: bytes of the networks, trained and frozen, buffers included.
        gradients: bytes of the trained parameters' gradients.
        optimizer: bytes of AdamW's moments.
        average: bytes of the averaged weights; 0 if they lie in the CPU's memory.
        activations: most that a forward and backward pass hold at once besides the gradients.
    """

    stage: str
    batch: int
    trained: int
    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """The sum, an upper bound: gradients are complete only once activations are freed."""
        parts = (self.parameters, self.gradients, self.optimizer, self.average, self.activations)
        return sum(parts)


def estimate_memory(
    stage: type[Stage], start: Start, name: str | None = None, gpu: bool = True
) -> MemoryEstimate:
    """Estimate what a step of a stage takes of its device.

    Weights, gradients, moments and averages are exact. Activations are the outputs of PyTorch's
    operations. Not included are a kernel's workspace, what the allocator loses to rounding, and
    communication buckets of several processes.

    Args:
        stage: the stage.
        start: what a run would begin with.
        name: name to report it by.
        gpu: whether to assume the fused attention of GPUs, and bfloat16 if the settings leave it
            open.

    Raises:
        PipelineError: a pipeline that the stage can't take.
    """
    config = start.config
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*no-op")  # weights copied into meta tensors
        base = stage.start(start)
    with FakeTensorMode(allow_non_fake_inputs=True):
        sketch = stage.sketch(base, start)
        networks, frozen = sketch.networks(), sketch.frozen()
        for module in (sketch, *frozen):
            _emptied(module)
        parameters = {p: _bytes(p) for p in sketch.parameters()}
        trained = {p: n for p, n in parameters.items() if p.requires_grad}
        optimized = [p for n in networks.values() for p in n.parameters() if p.requires_grad]
        held = _size(sketch) + sum(map(_size, frozen))
        average = sum(map(_size, networks.values())) if config.ema_device == "auto" else 0
        for module in sketch.modules():
            if isinstance(module, UNet2DConditionModel):
                module.set_attn_processor(AttnProcessor2_0() if gpu else AttnProcessor())
        if getattr(config, "checkpointing", False):
            recompute(sketch.blocks())
        low = bool(config.bf16) if config.bf16 is not None else gpu
        activations = step_peak(sketch.train(), sketch.blank(config.batch_size), low)
    return MemoryEstimate(
        stage=name or stage.name,
        batch=config.batch_size,
        trained=sum(p.numel() for p in trained),
        parameters=held,
        gradients=sum(trained.values()),
        optimizer=sum(2 * _bytes(p) + COUNTER for p in optimized),
        average=average,
        activations=activations,
    )


def step_peak(stage: Stage, batch: dict[str, Tensor], bf16: bool) -> int:
    """Most bytes that a step's tensors take at once, including its batch but not its gradients.

    Args:
        stage: stage whose `loss` is computed, on real or fake tensors.
        batch: its input.
        bf16: whether to run under bfloat16 autocast.
    """
    live = Live()
    parameters = [p for p in stage.parameters() if p.requires_grad]
    with live.without_gradients(parameters), live:
        for value in {id(v): v for v in batch.values()}.values():
            live.add(value)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = stage.loss(batch)
        loss.backward()
    for parameter in parameters:
        parameter.grad = None
    return live.most


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that operations allocate, for as long as each lives.

    Attributes:
        most: most bytes that lived at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out

    def add(self, value: Tensor) -> None:
        """Count a tensor's storage, unless it is already counted."""
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self.known[key] = storage.nbytes()
        self.now += self.known[key]
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.known.pop(key)

    @contextmanager
    def without_gradients(self, parameters: Iterable[Tensor]) -> Iterator[Self]:
        """Stop counting gradients once they are complete."""

        def leave(parameter: Tensor) -> None:
            assert parameter.grad is not None
            key = parameter.grad.untyped_storage()._cdata
            self.now -= self.known.get(key, 0)
            self.known[key] = 0

        hooks = [p.register_post_accumulate_grad_hook(leave) for p in parameters]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()


def _emptied(module: nn.Module) -> None:
    """Replace a module's tensors by fake ones with the memory layout used in training."""
    for part in module.modules():
        stores: list[tuple[dict[str, Any], bool]] = [
            (part._parameters, True),
            (part._buffers, False),
        ]
        for held, wrap in stores:
            for name, value in held.items():
                if value is None:
                    continue
                four = value.dim() == 4 and value.is_floating_point()
                form = torch.channels_last if four else torch.contiguous_format
                empty = torch.empty(tuple(value.shape), dtype=value.dtype, memory_format=form)
                assert isinstance(empty, FakeTensor)
                grad = isinstance(value, nn.Parameter) and value.requires_grad
                held[name] = nn.Parameter(empty, grad) if wrap else empty


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _size(module: nn.Module) -> int:
    return sum(_bytes(v) for v in (*module.parameters(), *module.buffers()))
