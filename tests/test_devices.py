"""Networks on another device: nothing of a computation is left on the CPU.

PyTorch's `meta` device, which has shapes and no numbers, stands in for a GPU: like one it refuses
to be mixed with the CPU.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoomldm.diffusion.schedule import make_schedule
from zoomldm.errors import PipelineError
from zoomldm.generation.contexts import as_seed, draw_contexts
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline, load_pipeline, pick_device


def there(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


@pytest.fixture(scope="module")
def pipeline() -> ZoomLDMPipeline:
    return build_pipeline("tiny").to("meta")


def test_the_stand_in_refuses_to_be_mixed() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2) + there(2)


def sampled(p: ZoomLDMPipeline) -> Tensor:
    network = p.embedding_diffusion
    return draw_contexts(network, 2, there(2, 64, 32), 3, 2.0, there(2, 32), there(2, 16, 32))


def denoised(p: ZoomLDMPipeline) -> Tensor:
    schedule = make_schedule(p.scheduler.config, 4, 500)
    noisy = schedule.add_noise(there(2, 4, 32, 32), there(2, 4, 32, 32))
    return schedule.denoised(p.denoise(there(2, 64, 32), 1.5), noisy)


@pytest.mark.parametrize(
    "compute",
    [
        lambda p: p.context(torch.empty(2, 4, 4, 32), 2),
        lambda p: p.context(torch.empty(1, 64, 64, 32), 6),
        lambda p: p.encode_images(there(2, 3, 256, 256)),
        lambda p: p.decode_latents(there(2, 4, 32, 32)),
        lambda p: p.patch_encoder(there(2, 3, 256, 256)),
        sampled,
        denoised,
    ],
)
def test_on_another_device(
    pipeline: ZoomLDMPipeline, compute: Callable[[ZoomLDMPipeline], Tensor]
) -> None:
    with torch.no_grad():
        assert compute(pipeline).device.type == "meta"


def test_devices_by_name() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert load_pipeline("tiny", "meta").device.type == "meta"
    for name in ("cuda:99", "gpu"):
        with pytest.raises(PipelineError, match=f"device '{name}' can't be used; here are cpu"):
            load_pipeline("tiny", name)


def test_seeds_from_a_generators_device() -> None:
    generator = torch.Generator("cpu").manual_seed(1)
    assert 0 <= as_seed(generator) < 2**62
