"""The stages that make the frozen networks: what a step is made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import paint_slide

from zoomldm.data.slide_patches import SlidePatches, cache_tiles
from zoomldm.networks.autoencoder import FoldedAutoencoder
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.pipeline.presets import preset
from zoomldm.training.stages.autoencoder import AutoencoderStage
from zoomldm.training.stages.patch_encoder import PatchEncoderStage


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> SlidePatches:
    folder = tmp_path_factory.mktemp("tiles")
    slides = []
    for seed in (0, 1, 2):
        (folder / str(seed)).mkdir()
        painted = paint_slide(folder / str(seed) / "s.tif", 4700, 520, seed=seed)
        slides.append(painted.rename(folder / f"slide{seed}.tif"))
    cache_tiles(slides, folder / "cache")
    return SlidePatches(folder / "cache", [s.name for s in slides])


def test_strong_noise_falls_on_its_share_and_counts_not_as_psnr(tiles: SlidePatches) -> None:
    network = FoldedAutoencoder(**preset("tiny")["vae"])
    stage = AutoencoderStage(network, tiles, noise=0.0, strong=2.0, noisy=0.5)
    batch = stage.batch(np.random.default_rng(0), 64)
    strength = batch["noise"].flatten(1).std(1)
    assert 0.3 < (strength > 0).float().mean() < 0.7
    assert torch.equal(strength == 0, batch["clean"])
    assert strength.max() < 2.1
    loud = {**batch, "noise": batch["noise"] * 100}
    stage.eval()
    assert torch.equal(stage(batch)["psnr"], stage(loud)["psnr"])
    assert stage(loud)["loss"] > stage(batch)["loss"]


def test_equivariance_teaches_halved_latents_to_decode(tiles: SlidePatches) -> None:
    torch.manual_seed(0)
    found = {}
    for weight in (0.0, 2.0):
        torch.manual_seed(0)
        network = FoldedAutoencoder(**preset("tiny")["vae"])
        stage = AutoencoderStage(network, tiles, equivariance=weight)
        optimizer = torch.optim.Adam(stage.parameters(), 3e-3)
        for step in range(40):
            losses = stage(stage.batch(np.random.default_rng(step), 8))
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        with torch.no_grad():
            found[weight] = float(stage(stage.batch(np.random.default_rng(99), 16))["halved"])
    assert found[2.0] < found[0.0]


def test_a_batch_is_of_few_slides(tiles: SlidePatches, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = PatchEncoderStage(TileCNN(**preset("tiny")["patch_encoder"]), tiles, slides=2)
    read: list[int] = []
    whole = stage.place

    class Noted(dict):
        def __getitem__(self, key: int) -> int:
            read.append(key)
            return whole[key]

    monkeypatch.setattr(stage, "place", Noted(whole))
    seen = []
    for seed in range(6):
        read.clear()
        stage.batch(np.random.default_rng(seed), 6)
        seen.append(set(tiles.slide[read].tolist()))
    assert all(len(s) <= 2 for s in seen)
    assert set.union(*seen) == {0, 1, 2}


def test_layout_gets_no_contrast(tiles: SlidePatches) -> None:
    network = TileCNN(**preset("tiny")["patch_encoder"])
    stage = PatchEncoderStage(network, tiles, thumbnail=0.0)
    stage(stage.batch(np.random.default_rng(0), 6))["loss"].backward()
    assert network.place.weight.grad is None or not network.place.weight.grad.any()
    assert network.project.weight.grad.any()  # type: ignore[union-attr]


class _LookupEncoder(torch.nn.Module):
    """An encoder that gives each view the code that its own mean colour stands for."""

    def __init__(self, codes: dict[int, list[float]]) -> None:
        super().__init__()
        self.codes = codes
        self.config = {"dim": 4, "layout": 0, "side": 64}

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        keys = (views.mean((1, 2, 3)) * 100).round().int().tolist()
        return torch.tensor([self.codes[k] for k in keys])


def test_the_contrast_pairs_a_tile_with_its_own_second_view(tiles: SlidePatches) -> None:
    """Views of one tile with one code: the loss is near zero; with codes shuffled it is not."""
    views = {k: torch.full((1, 3, 64, 64), k / 100) for k in (10, 20, 30, 40)}
    stage = PatchEncoderStage(TileCNN(**preset("tiny")["patch_encoder"]), tiles, thumbnail=0.0)
    stage.content_dims = 4
    stage.thumbnail_decoder = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.Unflatten(1, (3, 1, 1))
    )
    batch = {
        "first": torch.cat([views[10], views[20]]),
        "second": torch.cat([views[30], views[40]]),
    }
    one, other = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]
    stage.patch_encoder = _LookupEncoder({10: one, 20: other, 30: one, 40: other})
    right = stage(batch)
    assert right["contrast"] < 0.01
    assert right["hit"] == 1
    stage.patch_encoder = _LookupEncoder({10: one, 20: other, 30: other, 40: one})
    wrong = stage(batch)
    assert wrong["contrast"] > 5
    assert wrong["hit"] == 0


def test_held_out_tells_neighbours_from_tiles_far_away(
    tiles: SlidePatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes that follow the place along the slide have an AUC near 1, their reverse near 0."""
    stage = PatchEncoderStage(TileCNN(**preset("tiny")["patch_encoder"]), tiles, tiles)
    indices = tiles.at_level(0)
    where = {int(i): tiles.start[i] for i in indices}
    asked: list[int] = []
    real = tiles.read

    def read(i: int) -> np.ndarray:
        asked.append(i)
        return real(i)

    monkeypatch.setattr(tiles, "read", read)

    def encoder(spacing: float) -> torch.nn.Module:
        class Placed(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

            @torch.no_grad()
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                part = asked[-len(x) :]
                angle = torch.tensor([float(where[i][1]) * spacing for i in part])
                return torch.stack([angle.cos(), angle.sin()], 1)

        return Placed()

    stage.patch_encoder = encoder(0.15)  # neighbours 0.15 apart, 16 tiles 2.4
    assert stage.held_out()["auc"] > 0.95
    stage.patch_encoder = encoder(np.pi)  # neighbours opposite
    assert stage.held_out()["auc"] < 0.3


def test_an_encoder_is_saved(tiles: SlidePatches, tmp_path: Path) -> None:
    stage = PatchEncoderStage(TileCNN(**preset("tiny")["patch_encoder"]), tiles, tiles)
    stage.save(tmp_path)
    assert (tmp_path / "patch_encoder" / "config.json").is_file()
