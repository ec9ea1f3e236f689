"""The published figures of the networks, on networks of which every figure is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from synthetic import texture

from zoomldm.evaluation.judge import colour_judge
from zoomldm.evaluation.losses import measure_losses
from zoomldm.evaluation.networks import (
    measure_autoencoder,
    measure_encoder,
    measure_retrieval,
)
from zoomldm.evaluation.tiles import SlideTiles


def tiles(count: int = 4) -> np.ndarray:
    """Tiles that differ in colour and in what is on them."""
    field = texture()
    out = [field[:256, 256 * i : 256 * i + 256] * (0.5 + 0.5 * i / count) for i in range(count)]
    return np.stack(out).astype(np.uint8)


class Shifted:
    """A pipeline whose autoencoder adds `error` to every px and whose encoder is told.

    Its embedding of a tile is whatever `code` makes of the tile's pixels.
    """

    device = torch.device("cpu")

    def __init__(self, error: float = 0, code=None, generate=None) -> None:
        self.error, self.code, self.generate = error, code, generate
        self.asked: list = []

    def encode_images(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode_latents(self, z: torch.Tensor) -> torch.Tensor:
        return z + self.error / 127.5

    def encode_tiles(self, pixels: np.ndarray) -> np.ndarray:
        return self.code(pixels)

    def __call__(self, grid, level, *, num_inference_steps, guidance_scale, generator, output_type):
        self.asked.append((level, num_inference_steps, guidance_scale, output_type))
        return SimpleNamespace(images=self.generate(grid[:, 0, 0]))


def test_psnr_and_detail_of_a_known_round_trip() -> None:
    pixels = np.clip(tiles(), 20, 220)
    slide = SlideTiles("a", np.array([[0, i] for i in range(4)]), pixels)
    (exact,) = measure_autoencoder(Shifted(), [slide])
    assert exact["psnr"] == pytest.approx(100)
    assert exact["detail_kept"] == pytest.approx(1)
    (row,) = measure_autoencoder(Shifted(10), [slide])
    assert row["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    assert row["psnr_low"] == pytest.approx(row["psnr"]) == row["psnr_high"]
    assert (row["slide"], row["tiles"]) == ("a", 4)
    flat = Shifted()
    flat.decode_latents = lambda z: z.mean((2, 3), keepdim=True).expand_as(z)
    (row,) = measure_autoencoder(flat, [slide])
    assert row["detail_kept"] == 0
    assert row["psnr"] < 25


def test_interval_of_psnr_holds_its_tiles() -> None:
    pixels = np.clip(tiles(), 20, 200)
    worse = Shifted()
    worse.decode_latents = lambda z: z + torch.tensor([2.0, 4, 8, 16])[:, None, None, None] / 127.5
    (row,) = measure_autoencoder(worse, [SlideTiles("a", np.zeros((4, 2), int), pixels)])
    each = 20 * np.log10(255 / np.array([2, 4, 8, 16]))
    assert row["psnr"] == pytest.approx(each.mean(), abs=1e-2)
    assert each.min() <= row["psnr_low"] < row["psnr"] < row["psnr_high"] <= each.max()


def places() -> np.ndarray:
    """Two pairs of neighbours, 40 tiles (5 mm) apart from each other."""
    return np.array([[0, 0], [0, 1], [40, 0], [40, 1]])


def test_neighbours_that_look_alike_have_an_auc_of_one() -> None:
    """Encoders that know the place, know its opposite, and know nothing."""
    pixels = np.stack([np.full((256, 256, 3), v, np.uint8) for v in (10, 60, 110, 160)])
    codes = {10: [1, 0.1], 60: [1, -0.1], 110: [-1, 0.1], 160: [-1, -0.1]}

    def encoder(table: dict):
        def code(pixels: np.ndarray) -> np.ndarray:
            keys = np.array(list(table))
            nearest = np.abs(pixels[:, 0, 0, :1].astype(int) - keys).argmin(1)
            return np.array([list(table.values())[i] for i in nearest], np.float32)

        return Shifted(code=code)

    slide = SlideTiles("a", places(), pixels)
    (row,) = measure_encoder(encoder(codes), [slide])
    assert (row["near_pairs"], row["far_pairs"]) == (2, 4)
    assert row["auc"] == row["auc_centred"] == 1
    assert row["cosine_far"] == pytest.approx(-0.99, abs=0.02)
    opposite = {10: [1, 0], 60: [-1, 0], 110: [0, 1], 160: [0, -1]}
    (row,) = measure_encoder(encoder(opposite), [slide])
    assert row["auc"] == row["auc_centred"] == 0
    (row,) = measure_encoder(encoder({k: [1.0, 0.0] for k in codes}), [slide])
    assert row["auc"] == 0.5
    assert row["cosine_far"] == pytest.approx(1)


def test_colour_is_told_from_codes() -> None:
    """Neighbours of one colour: six statistics know the place, constant codes don't."""
    pixels = np.stack([np.full((256, 256, 3), v, np.uint8) for v in (10, 12, 200, 203)])
    pixels[:, ::2] += 5
    constant = Shifted(code=lambda p: np.ones((len(p), 2), np.float32))
    (row,) = measure_encoder(constant, [SlideTiles("a", places(), pixels)])
    assert row["auc_colour"] == 1
    assert row["auc"] == 0.5


def test_flip_and_colour_are_told_apart() -> None:
    """An encoder of left against right: a flip turns it round, a tint does nothing."""
    pixels = np.full((4, 256, 256, 3), 200, np.uint8)
    pixels[:, :, :128] = 50

    def sided(pixels: np.ndarray) -> np.ndarray:
        halves = pixels[:, :, :128].mean((1, 2, 3)), pixels[:, :, 128:].mean((1, 2, 3))
        sign = np.sign(halves[0] - halves[1])
        return np.stack([sign, 0 * sign], 1).astype(np.float32)

    (row,) = measure_encoder(Shifted(code=sided), [SlideTiles("a", places(), pixels)])
    assert row["cosine_flip"] == pytest.approx(-1)
    assert row["cosine_colour"] == pytest.approx(1)


def test_retrieval_of_pictures_made_right_and_made_wrong() -> None:
    pixels = tiles()
    slide = SlideTiles("a", np.zeros((4, 2), int), pixels)

    def generate(order: list[int]):
        def draw(codes: np.ndarray) -> torch.Tensor:
            chosen = pixels[[order[int(c)] for c in codes[:, 0]]]
            return torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 127.5 - 1

        return draw

    def code(given: np.ndarray) -> np.ndarray:
        apart = np.abs(given[:, None].astype(int) - pixels[None]).mean((2, 3, 4))
        return np.stack([apart.argmin(1), np.ones(len(given))], 1).astype(np.float32)

    judges = {"colour": colour_judge}
    right = Shifted(code=code, generate=generate([0, 1, 2, 3]))
    rows, pictures = measure_retrieval(right, [slide], judges, 7, 1.25)
    assert right.asked == [(0, 7, 1.25, "pt")]
    assert [r["pictures"] for r in rows] == ["generated", "round trip"]
    assert [r["colour"] for r in rows] == [1, 1]
    assert (pictures["a"] == pixels).all()
    half = Shifted(code=code, generate=generate([0, 1, 3, 2]))
    rows, _ = measure_retrieval(half, [slide], judges, 7, 1.25)
    assert [r["colour"] for r in rows] == [0.5, 1]
    assert rows[0]["colour_low"] < 0.5 < rows[0]["colour_high"]
    wrong = Shifted(code=code, generate=generate([1, 2, 3, 0]))
    rows, _ = measure_retrieval(wrong, [slide], judges, 7, 1.25)
    assert rows[0]["colour"] == 0


class Archive:
    """Two patches a level whose latents are their level."""

    def offsets(self, level: int) -> np.ndarray:
        return np.array([[0, 0], [1, 0]])

    def latents(self, level: int, chosen: np.ndarray) -> np.ndarray:
        return np.full((len(chosen), 2, 8, 8), level / 4, np.float16)

    def grid(self, level: int, row: int, col: int) -> np.ndarray:
        return np.full((1, 1, 3), level, np.float32)


class ExactPipeline:
    """A pipeline that predicts its target exactly under the context, and zero without."""

    device = torch.device("cpu")

    def __init__(self, kind: str) -> None:
        from diffusers import DDIMScheduler

        self.scheduler = DDIMScheduler(1000, prediction_type=kind)
        self.kind = kind

    def context(self, grid: np.ndarray, level: int) -> torch.Tensor:
        assert (grid == level).all()
        return torch.full((1, 4, 3), level + 1.0)

    def denoiser(self, level: int):
        return self._denoise

    def _denoise(self, noisy: torch.Tensor, times: torch.Tensor, context: torch.Tensor):
        if not context.any():
            return torch.zeros_like(noisy)
        x = torch.full_like(noisy, float(context.flatten()[0] - 1) / 4)
        alpha_bar = self.scheduler.alphas_cumprod[times][:, None, None, None]
        noise = (noisy - alpha_bar.sqrt() * x) / (1 - alpha_bar).sqrt()
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x
        return {"epsilon": noise, "sample": x, "v_prediction": velocity}[self.kind]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_losses_are_those_with_the_context_and_nulls_those_without(kind: str) -> None:
    rows = measure_losses(ExactPipeline(kind), [Archive()], each=2)
    assert len(rows) == 8
    assert [r["patches"] for r in rows] == [2] * 8
    for level, row in enumerate(rows):
        assert row["loss"] == pytest.approx(0, abs=1e-5)
        if kind == "sample":
            assert row["loss_null"] == pytest.approx((level / 4) ** 2, abs=1e-4)
        else:
            assert row["loss_null"] > 0.2
    if kind == "epsilon":
        assert rows[0]["loss_null"] == pytest.approx(1, abs=0.2)
