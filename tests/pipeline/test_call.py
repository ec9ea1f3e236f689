"""The public call: one layout of timesteps, any precision, an object with images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler
from PIL import Image
from tiny import filled_pipeline
from torch import Tensor

from zoomldm.diffusion.samplers import SAMPLERS, make_sampler
from zoomldm.diffusion.schedule import make_schedule
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation.batch import make_pixels
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline, load_pipeline
from zoomldm.pipeline.presets import preset
from zoomldm.sampling.draw import sample
from zoomldm.sampling.options import SampleOptions

GRID = np.random.default_rng(0).standard_normal((2, 1, 1, 32)).astype(np.float32)


@pytest.fixture
def pipeline() -> ZoomLDMPipeline:
    pipeline = filled_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def times(pipeline: ZoomLDMPipeline) -> Iterator[list[int]]:
    """Timesteps that the denoiser was asked for."""
    seen: list[int] = []
    handle = pipeline.unet.register_forward_pre_hook(lambda _, args: seen.append(int(args[1][0])))
    yield seen
    handle.remove()


def call_pipeline(pipeline: ZoomLDMPipeline, **options: Any) -> Any:
    given = {"generator": torch.Generator().manual_seed(0), "output_type": "pt", **options}
    return pipeline(GRID, 0, 4, 1.5, **given)


def test_it_draws_what_the_verbs_draw(pipeline: ZoomLDMPipeline, times: list[int]) -> None:
    noise = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
    images = call_pipeline(pipeline).images
    assert times == [999, 749, 499, 249]
    schedule = make_schedule(pipeline.scheduler, 4)
    pixels = make_pixels(pipeline, schedule, 1.5, pipeline.context(GRID, 0), noise)
    called = images.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(called, pixels)


def test_the_shipped_scheduler_says_so() -> None:
    for name in ("tiny", "demo"):
        assert load_pipeline(name).scheduler.config["timestep_spacing"] == "trailing"


def test_pipelines_saved_before_draw_as_they_did(tmp_path: Path) -> None:
    """Their files say "leading"; their verbs never laid timesteps so. Who says it now means it."""
    now = build_pipeline("tiny")
    now.scheduler = DDIMScheduler.from_config(now.scheduler.config, timestep_spacing="leading")
    now.save_pretrained(str(tmp_path / "now"))
    assert load_pipeline(str(tmp_path / "now")).scheduler.config["timestep_spacing"] == "leading"
    index = tmp_path / "now" / "model_index.json"
    old = {k: v for k, v in json.loads(index.read_text()).items() if k != "format"}
    index.write_text(json.dumps(old))
    before = load_pipeline(str(tmp_path / "now"))
    assert make_schedule(before.scheduler, 20).first == 999
    assert before.digest() == build_pipeline("tiny").digest()


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_swapped_scheduler_is_honoured(
    pipeline: ZoomLDMPipeline, times: list[int], name: str
) -> None:
    own = make_sampler(name, pipeline.scheduler.config)
    own.set_timesteps(4)
    expected = [int(t) for t in own.timesteps]
    pipeline.scheduler = own
    images = call_pipeline(pipeline).images
    assert times == expected
    context = pipeline.context(GRID, 0)
    noise = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
    x, model = noise, pipeline.denoise(context, 1.5)
    with torch.no_grad():
        for t in own.timesteps:
            x = own.step(model(x, t.expand(2)), t, x, return_dict=False)[0]
    torch.testing.assert_close(images, pipeline.decode_latents(x))
    # Another run of the same schedule begins anew, whatever steps the first one remembers.
    assert torch.equal(call_pipeline(pipeline).images, images)


@pytest.mark.parametrize("kind", [DDPMScheduler, EulerAncestralDiscreteScheduler])
def test_a_scheduler_that_no_seed_repeats_is_refused(pipeline: ZoomLDMPipeline, kind: type) -> None:
    pipeline.scheduler = kind(num_train_timesteps=1000)
    with pytest.raises(ConfigError, match=f"scheduler {kind.__name__} can't be used") as caught:
        call_pipeline(pipeline)
    assert "\n" not in str(caught.value)


def test_images_as_diffusers_gives_them(pipeline: ZoomLDMPipeline) -> None:
    output = call_pipeline(pipeline, output_type="pil")
    assert [type(i) for i in output.images] == [Image.Image] * 2
    assert output[0] is output.images[0] and list(output) == output.images and len(output) == 2
    assert output["images"] is output.images
    assert np.asarray(output).shape == (2, 256, 256, 3)
    (alone,) = call_pipeline(pipeline, output_type="np", return_dict=False)
    assert alone.shape == (2, 256, 256, 3)
    assert np.array_equal(np.asarray(call_pipeline(pipeline, output_type="np")), alone)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loaded", [False, True])
def test_half_precision(
    pipeline: ZoomLDMPipeline, tmp_path: Path, kind: torch.dtype, loaded: bool
) -> None:
    tile = np.random.default_rng(1).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    with torch.no_grad():
        for norm in (pipeline.patch_encoder.standardise, pipeline.vae.standardise):
            norm.running_mean.fill_(0.25)
    embeddings, images = pipeline.encode_tiles(tile), call_pipeline(pipeline).images
    contexts = {k: pipeline.context(np.ones((1, 2**k, 2**k, 32), np.float16), k) for k in (0, 5)}
    if loaded:
        pipeline.save_pretrained(str(tmp_path / "saved"))
        half = ZoomLDMPipeline.from_pretrained(str(tmp_path / "saved"), dtype=kind)
        half.set_progress_bar_config(disable=True)
    else:
        half = pipeline.to(kind)
    assert half.unet.dtype == half.summarizer.dtype == kind
    encoded = half.encode_tiles(tile)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, embeddings, atol=0.2)
    for level, context in contexts.items():
        found = half.context(np.ones((1, 2**level, 2**level, 32), np.float16), level)
        torch.testing.assert_close(found.float(), context, atol=0.1, rtol=0.1)
    got = call_pipeline(half).images
    assert got.dtype == torch.float32
    assert float((got - images).abs().mean()) < 0.1
    latents = half.encode_images(torch.zeros(1, 3, 256, 256))
    assert latents.dtype == torch.float32
    quick = SampleOptions(steps=2, context_steps=2)
    samples = sample(half, 1, 1, 0, output_type="uint8", options=quick)
    assert samples.shape == (1, 256, 256, 3)


def four_levels(pipeline: ZoomLDMPipeline) -> ZoomLDMPipeline:
    own = CNNSummarizer(**{**preset("tiny")["summarizer"], "levels": 4})
    return ZoomLDMPipeline(**{**pipeline.components, "summarizer": own})


def test_levels_that_a_pipeline_lacks(pipeline: ZoomLDMPipeline) -> None:
    assert pipeline.levels == 8
    few = four_levels(pipeline)
    assert few.levels == 4
    few.context(np.zeros((1, 8, 8, 32), np.float32), 3)
    for call in (few.context, few):
        with pytest.raises(
            PipelineError, match=r"knows the 4 levels 20x to 2\.5x, not 1\.25x"
        ) as e:
            call(np.zeros((1, 16, 16, 32), np.float32), 4)
        assert "\n" not in str(e.value)


def test_noise_from_the_generator_given(pipeline: ZoomLDMPipeline) -> None:
    generators = [torch.Generator().manual_seed(s) for s in (5, 6)]
    both: Tensor = call_pipeline(pipeline, generator=generators, output_type="latent").images
    noise = [torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(s)) for s in (5, 6)]
    same = call_pipeline(pipeline, latents=torch.cat(noise), output_type="latent").images
    assert torch.equal(both, same)
