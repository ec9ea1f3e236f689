"""Pairs of tiles against brute force, sampled on large slides; the judge's device."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from zoomldm.evaluation.judge import load_judge
from zoomldm.evaluation.networks import measure_encoder
from zoomldm.evaluation.tiles import SlideTiles
from zoomldm.networks.patch_encoder import TileCNN


def scattered(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.6
    return np.argwhere(mask)


def slide(places: np.ndarray, side: int = 8) -> SlideTiles:
    pixels = np.random.default_rng(1).integers(0, 256, (len(places), side, side, 3), np.uint8)
    return SlideTiles("a.tif", places, pixels)


def test_the_judge_runs_where_it_is_told(tmp_path: Path) -> None:
    judge = TileCNN(dim=16, layout=0, widths=(8, 8, 8, 8), map_channels=2, grey=True)
    judge.save_pretrained(tmp_path)
    tiles = np.zeros((2, 256, 256, 3), np.uint8)
    assert load_judge(tmp_path)(tiles).shape == (2, 16)
    with pytest.raises(NotImplementedError, match="meta tensor"):  # all but the last copy ran
        load_judge(tmp_path, "meta")(tiles)


def test_pairs_against_brute_force() -> None:
    places = scattered(9, 11)
    near, far = slide(places).pairs(apart_um=640)  # five tiles
    gaps = np.abs(places[:, None] - places[None])
    upper = np.triu(np.ones(gaps.shape[:2], bool), 1)
    assert np.array_equal(near, np.argwhere(upper & (gaps.sum(-1) == 1)))
    assert np.array_equal(far, np.argwhere(upper & (gaps.max(-1) >= 5)))


def test_pairs_of_a_large_slide_are_sampled() -> None:
    places = np.argwhere(np.ones((200, 200), bool))  # 800 million pairs
    tiles = SlideTiles("a.tif", places, np.zeros((len(places), 1, 1, 3), np.uint8))
    near, far = tiles.pairs(most=500)
    again = tiles.pairs(most=500)
    assert np.array_equal(near, again[0]) and np.array_equal(far, again[1])
    assert len(near) == len(far) == 500 == len(np.unique(far, axis=0))
    assert (np.abs(places[near[:, 0]] - places[near[:, 1]]).sum(1) == 1).all()
    gaps = np.abs(places[far[:, 0]] - places[far[:, 1]]).max(1)
    assert (gaps * 128 >= 2000).all() and gaps.max() > 100


def test_encoder_figures_against_brute_force() -> None:
    places = scattered(20, 18)
    tiles = slide(places)
    codes = np.stack([np.sin(places[:, 0] / 9), np.cos(places[:, 1] / 7), places.sum(1) / 40], 1)
    order = {p.tobytes(): c for p, c in zip(tiles.pixels, codes, strict=True)}

    def encode(pixels: np.ndarray) -> np.ndarray:
        return np.stack([order.get(p.tobytes(), np.ones(3)) for p in pixels])

    pipeline: Any = SimpleNamespace(encode_tiles=encode)
    (row,) = measure_encoder(pipeline, [tiles])
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    scores = unit @ unit.T
    near, far = (scores[p[:, 0], p[:, 1]] for p in tiles.pairs())
    above = (near[:, None] > far[None]).mean() + (near[:, None] == far[None]).mean() / 2
    assert row["auc"] == pytest.approx(above)
    assert row["cosine_far"] == pytest.approx(far.mean())
    flipped = unit @ (np.ones(3) / 3**0.5)
    assert row["cosine_flip"] == pytest.approx(flipped.mean())
    assert (row["near_pairs"], row["far_pairs"]) == (len(near), len(far))
