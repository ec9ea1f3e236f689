"""Contexts: noise of their own, guidance, conditions that a network can't follow."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from zoomldm.archive.manifest import Solver
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation.contexts import (
    as_seed,
    check_conditions,
    context_noise,
    context_times,
    draw_contexts,
    image_noise,
    softened,
)
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.embedding_dit import EmbeddingDiT
from zoomldm.pipeline import ZoomLDMPipeline

SHAPE = (64, 32)


def test_noise_is_of_its_sample_alone() -> None:
    fields = [
        context_noise(seed, level, index, SHAPE).flatten()
        for seed in (0, 1)
        for level in (0, 7)
        for index in (0, 1, 2)
    ]
    fields += [
        image_noise(0, 0, step, index, (2, 32, 32)).flatten()
        for step in (0, 999)
        for index in (0, 1)
    ]
    correlation = torch.corrcoef(torch.stack(fields)) - torch.eye(len(fields))
    assert correlation.abs().max() < 0.12  # 2,048 numbers: 5.4 deviations of 0.022
    every = torch.stack(fields)
    assert abs(float(every.mean())) < 0.03
    assert abs(float(every.std()) - 1) < 0.03
    assert torch.equal(context_noise(0, 7, 1, SHAPE).flatten(), fields[4])


def test_odd_sizes() -> None:
    assert context_noise(0, 0, 0, (65, 512)).shape == (65, 512)


def test_the_right_answer_comes_out(pipeline: ZoomLDMPipeline) -> None:
    network = copy.deepcopy(pipeline.embedding_diffusion)
    clean = torch.randn(2, *SHAPE)
    network.mean.fill_(3)
    network.deviation.fill_(2)
    network.forward = lambda *_: clean
    sampled = draw_contexts(network, 2, torch.randn(2, *SHAPE), steps=10)
    torch.testing.assert_close(sampled, clean * 2 + 3, atol=0.02, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 8, 50, 969, 1000])
def test_times_of_contexts(steps: int) -> None:
    times = context_times(steps)
    assert len(times) == steps and times[0] == 999 and times[-1] >= 0
    assert all(a > b for a, b in pairwise(times))
    assert steps != 8 or times[-1] == 44
    for wrong in (0, 1001):
        with pytest.raises(ConfigError, match="expected 1 to 1000"):
            context_times(wrong)


def test_solvers_meet_where_there_are_many_steps(pipeline: ZoomLDMPipeline) -> None:
    network, start = pipeline.embedding_diffusion, torch.randn(2, *SHAPE)

    def sampled(steps: int, solver: Solver) -> torch.Tensor:
        return draw_contexts(network, 1, start, steps, solver=solver)

    many, other = sampled(200, "ddim"), sampled(100, "dpm-solver++")
    assert float((other - many).square().mean() / many.var()) < 0.02  # it ends at 44, not at 0
    assert not torch.allclose(sampled(4, "ddim"), sampled(4, "dpm-solver++"), atol=1e-3)


def test_guidance(pipeline: ZoomLDMPipeline) -> None:
    """One step gives the prediction itself, which guidance moves along a line."""
    network, start = pipeline.embedding_diffusion, torch.randn(2, *SHAPE)
    reference = torch.randn(2, 32)
    none, whole, twice = (
        draw_contexts(network, 1, start, 1, guidance, reference) for guidance in (0, 1, 2)
    )
    assert not torch.allclose(none, whole, atol=1e-3)
    torch.testing.assert_close(twice - whole, whole - none, atol=1e-4, rtol=1e-3)
    bare = draw_contexts(network, 1, start, 1, 0)
    torch.testing.assert_close(none, bare)  # without guidance the reference counts for nothing


@pytest.mark.parametrize("condition", ["level", "reference", "parent"])
def test_every_condition_counts(pipeline: ZoomLDMPipeline, condition: str) -> None:
    network, start = pipeline.embedding_diffusion, torch.randn(1, *SHAPE)
    given = {
        "level": {"level": 3},
        "reference": {"level": 2, "reference": torch.randn(1, 32)},
        "parent": {"level": 2, "parent": torch.randn(1, 16, 32)},
    }[condition]
    other = draw_contexts(network, start=start, steps=3, **given)
    assert not torch.allclose(other, draw_contexts(network, 2, start, 3), atol=1e-3)


def test_what_a_network_can_not_follow() -> None:
    with pytest.raises(PipelineError, match="train one with `zoomldm train --stage embedding-d"):
        check_conditions(None, 1, reference=False, parent=False)
    released = EmbeddingDiT(width=32, depth=1, heads=2)
    with pytest.raises(ConfigError, match="context guidance is 2"):
        check_conditions(released, 2, reference=False, parent=False)
    with pytest.raises(ConfigError, match="takes no parent"):
        check_conditions(released, 1, reference=False, parent=True)
    with pytest.raises(ConfigError, match="takes no reference"):
        check_conditions(released, 4, reference=True, parent=False)
    without = ContextDiT(context_dim=32, reference_dim=0, width=32, depth=1, heads=2)
    with pytest.raises(ConfigError, match="trained without references"):
        check_conditions(without, 1, reference=True, parent=False)


def test_labels(pipeline: ZoomLDMPipeline) -> None:
    torch.manual_seed(0)
    network = ContextDiT(
        context_dim=32, reference_dim=32, width=32, depth=1, heads=2, labels=["benign", "malignant"]
    ).eval()
    for values in network.parameters():
        torch.nn.init.normal_(values, std=0.1)
    start = torch.randn(1, *SHAPE)
    sampled = [draw_contexts(network, 2, start, 2, label=x) for x in (None, "benign", "malignant")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(sampled[a], sampled[b], atol=1e-3)
    with pytest.raises(ConfigError, match=r"'other'.*no such one; it knows benign, malignant"):
        check_conditions(network, label="other")
    with pytest.raises(ConfigError, match="it knows none"):
        check_conditions(pipeline.embedding_diffusion, label="benign")
    with pytest.raises(ConfigError, match="takes no label"):
        check_conditions(EmbeddingDiT(width=32, depth=1, heads=2), label="benign")


def test_released_networks_draw_their_own_contexts() -> None:
    torch.manual_seed(0)
    network = EmbeddingDiT(width=32, depth=1, heads=2).eval()
    sampled = draw_contexts(network, 4, torch.randn(2, 65, 512), 3)
    assert sampled.shape == (2, 65, 512) and sampled.isfinite().all()


def test_seeds() -> None:
    assert as_seed(7) == as_seed(np.int64(7)) == 7
    generator = torch.Generator()
    first = as_seed(generator.manual_seed(3))
    assert first == as_seed(generator.manual_seed(3)) != as_seed(generator)
    assert as_seed(None) != as_seed(None)
    with pytest.raises(ConfigError, match="seed is -1"):
        as_seed(-1)


def test_a_drawn_outline_is_averaged_across_tokens_and_the_rest_is_left() -> None:
    contexts = torch.zeros(1, 64, 40)
    contexts[:, :, 32:] = torch.randn(1, 64, 8)
    contexts[0, 8 * 3 + 4, :32] = 1  # one token: a square of 4 x 4 cells of two channels
    found = softened(contexts, 2)
    torch.testing.assert_close(found[:, :, 32:], contexts[:, :, 32:])
    tokens = found[:, :, :32].transpose(1, 2).unflatten(2, (8, 8))
    latents = torch.nn.functional.pixel_shuffle(tokens, 4)[0, 0]
    assert (latents[:, 1:] - latents[:, :-1]).abs().max() < 0.25  # 1 before
    torch.testing.assert_close(latents.sum(), torch.tensor(16.0))


def test_contexts_without_an_outline_stay() -> None:
    contexts = torch.randn(2, 64, 8)
    assert softened(contexts, 0) is contexts


def test_only_networks_without_axes_have_their_outlines_averaged() -> None:
    """With axes outlines of neighbouring tokens meet, and averaging would blur what was drawn."""
    for axes in (0, 16):
        torch.manual_seed(0)
        network = ContextDiT(
            context_dim=40, reference_dim=32, width=32, depth=1, heads=2, axes=axes
        ).eval()
        for values in network.parameters():
            torch.nn.init.normal_(values, std=0.1)
        start = torch.randn(1, 64, 40)
        plain, averaged = (draw_contexts(network, 2, start, 2, outline=n) for n in (0, 2))
        assert torch.equal(plain, averaged) == bool(axes)
        if not axes:
            torch.testing.assert_close(softened(plain, 2), averaged)
