"""Samples as a function of pipeline, options, level and number alone; zooms."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import filled_pipeline, watch_octaves

from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation import batch
from zoomldm.generation.batch import upsampled_quarter
from zoomldm.generation.contexts import image_noise
from zoomldm.generation.octaves import IMAGINED_NOISE, Known, make_latents, octave_times
from zoomldm.geometry.levels import COARSEST, COUNT, TILE
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.pixels import to_pixels
from zoomldm.sampling.draw import sample
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler, fullest_quarter

QUICK = SampleOptions(steps=2, context_steps=2)


def with_batch(count: int) -> SampleOptions:
    return SampleOptions(steps=2, context_steps=2, batch=count)


@pytest.mark.parametrize("count", [1, 3])
def test_a_sample_depends_on_its_number_alone(pipeline: ZoomLDMPipeline, count: int) -> None:
    sampler = Sampler(pipeline, with_batch(count))
    all_ = sampler.sample(2, 7)
    assert all_.shape == (7, TILE, TILE, 3) and all_.dtype == np.uint8
    for first, n in ((0, 1), (4, 1), (2, 4), (6, 1)):
        assert np.array_equal(sampler.sample(2, n, first), all_[first : first + n]), (first, n)
    again = Sampler(pipeline, with_batch(count)).sample(2, 7)
    assert np.array_equal(again, all_)
    assert len({p.tobytes() for p in all_}) == 7


def test_another_process_draws_the_same(
    pipeline: ZoomLDMPipeline, tmp_path: Path, elsewhere: Callable[[str], None]
) -> None:
    pipeline.save_pretrained(tmp_path / "pipeline")
    code = f"""
import numpy as np
from zoomldm.pipeline import load_pipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler
sampler = Sampler(load_pipeline({str(tmp_path / "pipeline")!r}), SampleOptions(
    steps=2, context_steps=2, batch=2))
np.save({str(tmp_path / "out.npy")!r}, sampler.sample(5, 1, first=3))
"""
    elsewhere(code)
    expected = Sampler(pipeline, with_batch(2)).sample(5, 4)[3:]
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)


def test_every_option_counts(pipeline: ZoomLDMPipeline) -> None:
    options = [
        QUICK,
        SampleOptions(steps=2, context_steps=2, seed=1),
        SampleOptions(steps=3, context_steps=2),
        SampleOptions(steps=2, context_steps=3),
        SampleOptions(steps=2, context_steps=2, guidance=1),
        SampleOptions(steps=2, context_steps=2, context_guidance=3),
    ]
    images = [Sampler(pipeline, o).sample(1, 1).tobytes() for o in options]
    images += [Sampler(pipeline, QUICK).sample(level, 1).tobytes() for level in (0, 7)]
    images += [Sampler(pipeline, QUICK).sample(1, 1, reference=np.ones(32)).tobytes()]
    assert len(set(images)) == len(images)


def test_guidance_where_tissue_is_asked_for(pipeline: ZoomLDMPipeline) -> None:
    plain, none, four = (
        Sampler(pipeline, SampleOptions(steps=2, context_steps=2, context_guidance=w))
        for w in (None, 1, 4)
    )
    reference = np.ones(32, np.float32)
    assert torch.equal(plain.contexts(1, 1), none.contexts(1, 1))
    asked = plain.contexts(1, 1, reference=reference)
    assert torch.equal(asked, four.contexts(1, 1, reference=reference))
    assert not torch.equal(asked, none.contexts(1, 1, reference=reference))


def test_references_of_single_samples(pipeline: ZoomLDMPipeline) -> None:
    references = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    sampler = Sampler(pipeline, with_batch(2))
    together = sampler.sample(0, 3, 1, references)
    for i, reference in enumerate(references):
        assert np.array_equal(sampler.sample(0, 1, 1 + i, reference), together[i : i + 1])


def test_progress(pipeline: ZoomLDMPipeline) -> None:
    counts: list[int] = []
    Sampler(pipeline, with_batch(3), counts.append).sample(0, 5, first=2)
    assert counts == [1, 3, 1]  # numbers 2, 3 to 5, 6: rows that only fill a batch don't count


@pytest.mark.parametrize("count", [1, 2])
def test_zooms(pipeline: ZoomLDMPipeline, count: int) -> None:
    sampler = Sampler(pipeline, with_batch(count))
    pictures, quarters = sampler.zoom(3)
    assert sorted(pictures) == list(range(COUNT)) and sorted(quarters) == list(range(COARSEST))
    assert np.array_equal(pictures[COARSEST], sampler.sample(COARSEST, 3))
    for level in range(COARSEST):
        expected = [fullest_quarter(p) for p in pictures[level + 1]]
        assert [tuple(q) for q in quarters[level].tolist()] == expected
    alone, alone_quarters = sampler.zoom(1, first=2)
    for level in range(COUNT):
        assert np.array_equal(alone[level], pictures[level][2:])
    assert all(np.array_equal(alone_quarters[k][0], quarters[k][2]) for k in alone_quarters)


def test_a_zoom_starts_from_the_picture_above(pipeline: ZoomLDMPipeline) -> None:
    """With next to no noise a finer picture is the round trip of the quarter that it shows."""
    options = SampleOptions(steps=1000, context_steps=1, start=1, guidance=1)
    sampler = Sampler(pipeline, options)
    sampler._whole = Sampler(pipeline, QUICK)._whole  # of the coarsest alone: not 1000 steps
    pictures, quarters = sampler.zoom(1)
    for level in (6, 2):
        row, col = quarters[level][0].tolist()
        start = upsampled_quarter(pictures[level + 1][0], row, col)
        x = torch.from_numpy(start).permute(2, 0, 1)[None].float().div(127.5).sub(1)
        back = pipeline.decode_latents(pipeline.encode_images(x)).add(1).mul(127.5)
        apart = back[0].permute(1, 2, 0) - torch.from_numpy(pictures[level][0]).float()
        assert apart.abs().mean() < 6
        assert (pictures[level][0] != pictures[level + 1][0]).any()


def test_a_zoom_is_told_its_parents_context(pipeline: ZoomLDMPipeline, monkeypatch) -> None:
    seen: dict[int, torch.Tensor | None] = {}
    contexts: dict[int, torch.Tensor] = {}
    draw = Sampler.contexts

    def watch(self, level, n, first=0, reference=None, label=None, parent=None):
        seen[level] = parent
        contexts[level] = draw(self, level, n, first, reference, label, parent)
        return contexts[level]

    monkeypatch.setattr(Sampler, "contexts", watch)
    _, quarters = Sampler(pipeline, QUICK).zoom(1)
    assert seen[COARSEST] is None
    for level in range(COARSEST):
        row, col = quarters[level][0].tolist()
        whole = contexts[level + 1][0].reshape(8, 8, -1)
        part = whole[4 * row : 4 * row + 4, 4 * col : 4 * col + 4].reshape(16, -1)
        parent = seen[level]
        assert parent is not None and torch.equal(parent[0], part)


def test_the_fullest_quarter() -> None:
    picture = np.full((TILE, TILE, 3), 240, np.uint8)
    assert fullest_quarter(picture) == (0, 0)
    picture[130:, :60, 1] = 100
    assert fullest_quarter(picture) == (1, 0)
    picture[:100, 140:, 1] = 90
    assert fullest_quarter(picture) == (0, 1)


def test_refused(pipeline: ZoomLDMPipeline) -> None:
    sampler = Sampler(pipeline, QUICK)
    with pytest.raises(ConfigError, match="level 8 does not exist"):
        sampler.sample(8, 1)
    with pytest.raises(ConfigError, match="0 samples from number 0"):
        sampler.sample(0, 0)
    with pytest.raises(ConfigError, match=r"shape \(5,\); expected \(32,\) or \(2, 32\)"):
        sampler.sample(0, 2, reference=np.ones(5))
    bare = build_pipeline("tiny")
    bare.embedding_diffusion = None
    with pytest.raises(PipelineError, match="no embedding diffusion"):
        Sampler(bare, QUICK)
    with pytest.raises(ConfigError, match="context steps is 0"):
        SampleOptions(context_steps=0)
    with pytest.raises(ConfigError, match="context guidance is nan"):
        SampleOptions(context_guidance=float("nan"))


def test_the_public_call(pipeline: ZoomLDMPipeline) -> None:
    chosen = SampleOptions(steps=2, context_steps=2)
    pixels = sample(pipeline, 3, 2, 5, output_type="uint8", options=chosen)
    expected = Sampler(pipeline, SampleOptions(seed=5, steps=2, context_steps=2)).sample(3, 2)
    assert np.array_equal(pixels, expected)
    array = sample(pipeline, 3, 2, 5, output_type="np", options=chosen)
    assert array.dtype == np.float32 and array.max() <= 1
    pictures = sample(pipeline, 3, 2, 5, options=chosen)
    assert np.array_equal(np.asarray(pictures[1]), pixels[1])
    images = [
        sample(
            pipeline, 3, 1, torch.Generator().manual_seed(9), output_type="uint8", options=chosen
        )
        for _ in range(2)
    ]
    assert np.array_equal(*images)


def test_an_octave_pipeline_zooms_under_a_noisy_parent(monkeypatch) -> None:
    """Held to its parent, an image shows as squares where context and parent disagree."""
    given = watch_octaves(batch, monkeypatch)
    sampler = Sampler(filled_pipeline("tiny-octaves"), QUICK)
    pictures, _ = sampler.zoom(2)
    assert {known.level: known.degradation for known in given} == {
        level: IMAGINED_NOISE * (level < COARSEST) for level in range(COUNT)
    }
    again, _ = sampler.zoom(1, first=1)
    assert all(np.array_equal(again[k][0], pictures[k][1]) for k in range(COUNT))


def test_an_octave_pipeline_samples_as_archives_are_drawn() -> None:
    """Of the pipeline's own scheduler as many evaluations would be too near their mean."""
    model = filled_pipeline("tiny-octaves")
    sampler = Sampler(model, QUICK)
    context = sampler.contexts(2, 1)
    noise = image_noise(0, 2, 999, 0, model.latent_shape)[None]
    times = octave_times(model.unet.alphas, 2)
    latents = make_latents(model.unet, Known(2, context), noise, times)
    expected = to_pixels(model.decode_latents(latents, 2))
    assert np.array_equal(sampler.images(2, context), expected)


@pytest.mark.parametrize(
    ("preset", "steps", "guidance"), [("tiny", 20, 1.5), ("tiny-octaves", 8, 1)]
)
def test_default_steps_and_guidance_are_those_of_the_solver(
    preset: str, steps: int, guidance: float
) -> None:
    sampler = Sampler(filled_pipeline(preset))
    assert (sampler.drawing.steps, sampler.drawing.guidance) == (steps, guidance)
    other = Sampler(filled_pipeline(preset), SampleOptions(steps=3, guidance=2)).drawing
    assert (other.steps, other.guidance) == (3, 2)
