"""The parts that large pictures are made with return the recorded numbers."""

from collections.abc import Callable

import pytest
import torch

from zoomldm.diffusion.guidance import guided_beyond
from zoomldm.diffusion.large_image import (
    decode_large,
    gaussian_window,
    join_tiles,
    remove_seams,
    resized,
    slerp,
    split_tiles,
    to_bytes,
    window_embedding,
    window_starts,
)
from zoomldm.pipeline import ZoomLDMPipeline


@pytest.mark.parametrize("factor", [2, 8])
def test_resizing(tape: Callable, assert_close: Callable, factor: int) -> None:
    t = tape("resizer")[str(factor)]
    assert_close(resized(t["img"], 1 / factor), t["down"])
    assert_close(resized(t["low"], factor), t["up"])


def test_window(tape: Callable, assert_close: Callable) -> None:
    assert_close(gaussian_window(64), tape("large_image")["kernel64"], 1e-6)


def test_decoding_by_windows(tape: Callable, raw_pipeline: ZoomLDMPipeline) -> None:
    t = tape("large_image")
    with torch.no_grad():
        picture = decode_large(raw_pipeline.vae.decode, t["latent"])
    ours = to_bytes(picture).permute(0, 2, 3, 1).int()
    difference = (ours - t["decoded_uint8"].int()).abs()
    assert difference.max() <= 1  # truncation turns a last bit into one level
    assert (difference > 0).float().mean() < 1e-3


def test_windows_cover_sizes_off_the_stride() -> None:
    assert window_starts(64) == [0]
    assert window_starts(100) == [0, 16, 32, 36]


@pytest.mark.parametrize("extra", [0, 2])
def test_guidance_of_large_pictures(
    tape: Callable, pipeline: ZoomLDMPipeline, assert_close: Callable, extra: int
) -> None:
    t = tape("large_image")
    small = tape("ldm")
    time = torch.full((2,), t["model_pred_t"])
    out = guided_beyond(pipeline.unet, small["cc"], extra)(small["xT"], time)
    assert_close(out, t["model_pred"][extra])


def test_spherical_interpolation(tape: Callable, assert_close: Callable) -> None:
    t = tape("large_image")["slerp"]
    assert_close(slerp(t["t"], t["a"], t["b"]), t["out"])
    torch.testing.assert_close(slerp(0.3, t["a"], t["a"]), t["a"])


def test_contexts_off_the_lattice(
    tape: Callable, raw_pipeline: ZoomLDMPipeline, assert_close: Callable
) -> None:
    t = tape("large_image")
    grid = t["postprocess"]["emb"].permute(1, 2, 0)
    for name, recorded in t["interp_cond"].items():
        row, col = (int(v) for v in name.split("_"))
        token = window_embedding(grid, row, col)[None, None, None]
        context = raw_pipeline.summarizer.summarise(token, torch.zeros(1, dtype=torch.long))
        assert_close(context, recorded)


def test_seam_removal(
    tape: Callable, raw_pipeline: ZoomLDMPipeline, assert_close: Callable
) -> None:
    t = tape("large_image")["postprocess"]
    grid = t["emb"].permute(1, 2, 0)
    noise = iter(t["noise"])

    def context(places: list[tuple[int, int]]) -> torch.Tensor:
        tokens = torch.stack([window_embedding(grid, *place)[None, None] for place in places])
        return raw_pipeline.summarizer.summarise(tokens, torch.zeros(len(places)).long())

    with torch.no_grad():
        tiles = remove_seams(
            raw_pipeline.unet,
            t["x0"],
            context,
            raw_pipeline.scheduler.alphas_cumprod,
            lambda shape: next(noise).reshape(shape),
            rows=2,
            start=t["t0"],
            stride=t["stride"],
            extra=t["guidance"],
            window_stride=t["window_stride"],
            batch=4,
        )
    assert_close(tiles, t["out"], 1e-4)


def test_tiles_to_a_map_and_back() -> None:
    tiles = torch.arange(6 * 3 * 4).reshape(6, 3, 2, 2)
    whole = join_tiles(tiles, 2)
    assert whole.shape == (1, 3, 4, 6)
    assert torch.equal(whole[0, :, :2, 2:4], tiles[1])
    assert torch.equal(split_tiles(whole, 2), tiles)
