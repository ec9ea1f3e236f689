"""Single networks return the recorded numbers: within 1e-5 of the largest, in float32."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from parity.weights import network_weights
from torch import Tensor, nn

from zoomldm.diffusion.learned_range import LearnedRange, cosine_betas
from zoomldm.networks import embedding_dit
from zoomldm.networks.checkpoint import Tensors, fill
from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.embedding_dit import EmbeddingDiT, positions
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import ViTSummarizer
from zoomldm.released import names as released

# At t = 977 a last bit of exp() in the time's frequencies is 6e-5 of an angle, which this random
# network magnifies: one bit of one frequency moves its output by up to 9e-3 of the largest, and
# the same code differs by 1e-3 between a CPU's instruction sets. What is left once the angles may
# move within their last bit is in `late_angles`.
LATE = 5e-3
LAST_BIT = 2.0**-14  # of a float32 between 512 and 1024, in radians


def _tensors(values: dict[str, Tensor], prefix: str) -> Tensors:
    return Tensors("tape", {prefix + k: v for k, v in values.items()})


def _filled(network: nn.Module, tensors: Tensors, renamed: Callable) -> Any:
    names = {k: renamed(k) for k in network.state_dict()}
    assert sorted(names.values()) == sorted(tensors)
    fill(network, tensors, names)
    return network


def test_denoiser(tape: Callable, assert_close: Callable) -> None:
    t = tape("unet")
    tensors = _tensors(network_weights(t["shapes"], t["seed"]), released.UNET)
    unet = Denoiser(**released.unet_config(tensors))
    _filled(unet, tensors, lambda k: released.UNET + released.unet_name(k, unet))
    seen: list[Tensor] = []
    inner = unet.unet
    assert inner.mid_block is not None
    hooks = [
        part.register_forward_hook(lambda _m, _i, out: seen.append(out))
        for part in (inner.mid_block, *inner.up_blocks)
    ]
    assert_close(unet(t["x"], t["t"], t["context"]), t["out"])
    for hook in hooks:
        hook.remove()
    # Recorded after the middle and after each output block; diffusers' up blocks hold three.
    recorded = [t["intermediates"][i] for i in (0, 3, 6, 9, 12)]
    for ours, theirs in zip(seen, recorded, strict=True):
        assert_close(ours, theirs)
    assert_close(unet(t["x"], t["t_float"], t["context"]), t["out_t_float"])
    assert_close(inner.time_proj(t["t"]), t["temb"])


def test_autoencoder(tape: Callable, assert_close: Callable) -> None:
    t = tape("autoencoder_vq")
    tensors = _tensors(network_weights(t["shapes"], t["seed"]), released.AUTOENCODER)
    vae = VQAutoencoder(**released.autoencoder_config(tensors))
    _filled(vae, tensors, lambda k: released.AUTOENCODER + released.autoencoder_name(k, vae))
    nearest, indices = vae.quantise(t["z"])
    assert torch.equal(indices, t["idx"])
    assert_close(nearest, t["quant"])
    assert_close(vae.encode(t["img"]), t["enc"])
    assert_close(vae.decode(t["z"]), t["dec"])
    assert_close(vae.decode(t["z"], quantise=False), t["dec_noquant"])
    assert_close(vae.encode(t["img_rect"]), t["enc_rect"])
    assert_close(vae.decode(t["z_rect"]), t["dec_rect"])


@pytest.fixture(scope="module")
def summarizer(tape: Callable) -> ViTSummarizer:
    t = tape("summarizer_vit")
    tensors = _tensors(network_weights(t["shapes"], t["seed"]), released.SUMMARIZER)
    network = ViTSummarizer(**released.summarizer_config(tensors))
    return _filled(
        network, tensors, lambda k: released.SUMMARIZER + released.summarizer_name(k, tensors)
    )


@pytest.mark.parametrize("case", ["1x1", "2x2", "4x4", "8x8", "2x4", "6x6"])
def test_summarizer(
    tape: Callable, summarizer: ViTSummarizer, assert_close: Callable, case: str
) -> None:
    t = tape("summarizer_vit")["cases"][case]
    grid = t["feat"].permute(0, 2, 3, 1)
    assert_close(summarizer.tokens(grid), t["tokens"])
    assert_close(summarizer.summarise(grid, t["mag"]), t["out"])


def test_summarizer_of_grids_of_many_sizes(
    tape: Callable, summarizer: ViTSummarizer, assert_close: Callable
) -> None:
    t = tape("summarizer_vit")["cases"]["mixed_list"]
    grids = [grid.permute(1, 2, 0) for grid in t["feat"]]
    assert_close(summarizer.summarise(grids, t["mag"]), t["out"])


def test_preparation_of_conditions(tape: Callable) -> None:
    """Equal to the recorded within what float16 rounds at each of the released three steps."""
    t = tape("ssl_preproc")
    raw = t["raw"].unflatten(1, (16, 16)).permute(1, 2, 0)[None]
    ours = ViTSummarizer.prepare(raw)[0].permute(2, 0, 1)
    recorded = t["normalised"].float()
    step = 2.0**-11 * (2 + recorded.abs() * 3)
    assert ((ours - recorded).abs() <= step).all()


@pytest.fixture(scope="module")
def transformer(tape: Callable) -> EmbeddingDiT:
    t = tape("embedding_dit")
    values = network_weights(t["shapes"], t["seed"]) | {"pos_embed": t["pos_embed"]}
    tensors = Tensors("tape", values)
    config = released.embedding_diffusion_config(tensors) | {"heads": t["config"]["num_heads"]}
    return _filled(EmbeddingDiT(**config), tensors, released.embedding_diffusion_name)


def test_embedding_diffusion_network(
    tape: Callable, transformer: EmbeddingDiT, assert_close: Callable
) -> None:
    t = tape("embedding_dit")
    out = transformer(t["x"].transpose(1, 2), t["t"], t["y"]).transpose(1, 2)
    assert_close(out[0], t["out"][0])
    assert_close(out[1], t["out"][1], LATE)
    assert_close(positions(65, 48)[None], t["pos_embed"], 1e-6)


@pytest.fixture(scope="module")
def late_angles(tape: Callable, transformer: EmbeddingDiT) -> tuple[EmbeddingDiT, Tensor]:
    """The network in float64, and the angles of t = 977 under which it returns the recording."""
    t = tape("embedding_dit")
    network = copy.deepcopy(transformer).double()
    x, late = t["x"].transpose(1, 2).double(), int(t["t"][1])
    steps = torch.arange(128, dtype=torch.float32)
    given = (late * torch.exp(-math.log(10000) * steps / 128)).double()
    recorded = t["out"][1].T.flatten().double()

    def output(off: Tensor) -> Tensor:
        with _angles(given + off * LAST_BIT):
            return network(x[1:], t["t"][1:], t["y"][1:])[0].flatten()

    off = torch.zeros(128, dtype=torch.float64)
    step = 1e-5
    for _ in range(2):  # Gauss-Newton, drawn to the given angles
        here = output(off)
        slope = torch.stack(
            [(output(off + step * e) - here) / step for e in torch.eye(128, dtype=torch.float64)], 1
        )
        normal = slope.T @ slope + 1e-8 * torch.eye(128, dtype=torch.float64)
        off = off + torch.linalg.solve(normal, slope.T @ (recorded - here))
    assert off.abs().max() < 1, "more than the last bit of an angle"
    return network, given + off * LAST_BIT


@contextmanager
def _angles(angles: Tensor) -> Iterator[None]:
    """Features of these angles (128,) for the time of every item."""
    features = torch.cat([angles.cos(), angles.sin()])[None]
    held = embedding_dit.time_features
    embedding_dit.time_features = lambda time: features.expand(len(time), -1)
    try:
        yield
    finally:
        embedding_dit.time_features = held


def test_late_output_is_the_recorded_but_for_the_last_bit_of_its_angles(
    tape: Callable, late_angles: tuple[EmbeddingDiT, Tensor], assert_close: Callable
) -> None:
    t = tape("embedding_dit")
    network, angles = late_angles
    with _angles(angles):
        out = network(t["x"][1:].transpose(1, 2).double(), t["t"][1:], t["y"][1:])
    assert_close(out[0].T, t["out"][1])


def test_late_losses_are_the_recorded_but_for_the_last_bit_of_their_angles(
    tape: Callable, late_angles: tuple[EmbeddingDiT, Tensor], assert_close: Callable
) -> None:
    t = tape("embedding_dit")["train"]
    network, angles = late_angles
    with _angles(angles):
        squared, bound = LearnedRange.cosine().losses(
            lambda x, time: network(x, time, t["y"][1:]),
            t["x0"][1:].transpose(1, 2).double(),
            t["t"][1:],
            t["noise"][1:].transpose(1, 2).double(),
        )
    for ours, recorded in ((squared, t["mse"]), (bound, t["vb"]), (squared + bound, t["loss"])):
        assert_close(ours[0], recorded[1], 5e-6)


def test_embedding_diffusion_sampling(
    tape: Callable, transformer: EmbeddingDiT, assert_close: Callable
) -> None:
    t = tape("embedding_dit")
    noise = t["x"].transpose(1, 2)
    diffusion = LearnedRange.cosine().respaced(10)
    with torch.no_grad():
        sampled = diffusion.sample(lambda x, time: transformer(x, time, t["y"]), noise)
    assert_close(sampled.transpose(1, 2), t["ddim10"], 1e-4)


def test_embedding_diffusion_schedule(tape: Callable, assert_close: Callable) -> None:
    t = tape("embedding_dit")
    assert_close(cosine_betas(), t["betas"], 1e-12)
    whole = LearnedRange.cosine()
    assert_close(whole.alphas, t["alphas_cumprod"], 1e-12)
    assert torch.equal(whole.respaced(200).times, t["map200"])
    assert torch.equal(whole.respaced(10).times, t["map10"])
    assert_close(whole.respaced(200).betas, t["betas200"], 1e-12)


def test_embedding_diffusion_losses(
    tape: Callable, transformer: EmbeddingDiT, assert_close: Callable
) -> None:
    t = tape("embedding_dit")["train"]
    squared, bound = LearnedRange.cosine().losses(
        lambda x, time: transformer(x, time, t["y"]),
        t["x0"].transpose(1, 2),
        t["t"],
        t["noise"].transpose(1, 2),
    )
    # The recorded float32 network is itself 8e-6 off float64 in the bound at t = 0.
    for ours, recorded, early in (
        (squared, t["mse"], 2e-6),
        (bound, t["vb"], 5e-6),
        (squared + bound, t["loss"], 2e-6),
    ):
        assert_close(ours[0], recorded[0], early)
        assert_close(ours[1], recorded[1], 1e-4)  # t = 977: see LATE
