"""The judge: what its loss asks for, and that a command makes one that `evaluate` takes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import paint_slide

from training.calls import train_stage
from zoomldm.data.slide_patches import SlidePatches, cache_tiles
from zoomldm.errors import ConfigError
from zoomldm.evaluation.judge import load_judge, retrieval
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.training.stages.judge import TINY, JudgeStage


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed in (0, 1):
        paint_slide(folder / f"s{seed}.tif", 1600, 1100, tissue=0.9, seed=seed)
    return folder


@pytest.fixture(scope="module")
def tiles(slides: Path) -> SlidePatches:
    cache_tiles(sorted(slides.glob("*.tif")), slides / "cache")
    return SlidePatches(slides / "cache", ["s0.tif", "s1.tif"])


def encoder() -> TileCNN:
    torch.manual_seed(0)
    return TileCNN(layout=0, grey=True, **TINY)


def test_the_loss_asks_for_equal_views_of_different_tiles(tiles: SlidePatches) -> None:
    """Codes of the two views: equal and independent is best, shuffled or all alike is worse."""
    stage = JudgeStage(encoder(), tiles)
    stage.head, stage.whiten = torch.nn.Identity(), torch.nn.BatchNorm1d(4, affine=False)
    given = {}

    class LookupJudge(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return given[float(x)]

    stage.judge = LookupJudge()  # type: ignore[assignment]
    codes = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    batch = {"first": torch.tensor(0.0), "second": torch.tensor(1.0)}

    def loss(first: torch.Tensor, second: torch.Tensor) -> dict[str, float]:
        given.update({0.0: first, 1.0: second})
        return {k: float(v) for k, v in stage(batch).items()}

    right = loss(codes, codes)
    shuffled = loss(codes, codes.roll(1, 0))
    alike = loss(codes[:, :1].expand(-1, 4), codes[:, :1].expand(-1, 4))
    assert right["on"] < 0.05 and right["off"] < 0.2
    assert shuffled["on"] > 3
    assert alike["on"] < 0.05 and alike["off"] > 10
    assert right["loss"] < min(shuffled["loss"], alike["loss"])


def test_it_learns(tiles: SlidePatches) -> None:
    stage = JudgeStage(encoder(), tiles)
    optimizer = torch.optim.Adam(stage.parameters(), 3e-3)
    before = float(stage(stage.batch(np.random.default_rng(99), 12))["on"].detach())
    for step in range(8):
        losses = stage(stage.batch(np.random.default_rng(step), 12))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert float(stage(stage.batch(np.random.default_rng(99), 12))["on"].detach()) < 0.8 * before


def test_held_out_views_are_recognised_by_what_they_show(tiles: SlidePatches) -> None:
    stage = JudgeStage(encoder(), tiles, tiles)
    assert JudgeStage(encoder(), tiles).held_out() == {}
    stage.judge = _Constant()  # type: ignore[assignment]
    assert stage.held_out()["recognised"] == pytest.approx(1 / min(100, len(tiles.at_level(0))))
    stage._views = lambda store, chosen, rng: dict.fromkeys(  # type: ignore[method-assign]
        ("first", "second"), torch.eye(len(chosen))
    )
    stage.judge = _Plain()  # type: ignore[assignment]
    assert stage.held_out()["recognised"] == 1


class _Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _Constant(_Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x), 3)


def test_a_command_makes_a_judge_that_evaluate_takes(slides: Path, tmp_path: Path) -> None:
    few = {"steps": 3, "save_every": 2, "show_every": 3}
    cases = tmp_path / "cases.csv"
    cases.write_text("file,case\ns0.tif,A\ns1.tif,B\n")
    report = train_stage(
        "judge",
        "tiny",
        slides,
        tmp_path / "run",
        holdout=["B"],
        cases=cases,
        changes=few,
    )
    assert (report.training, report.held_out) == (["s0.tif"], ["s1.tif"])
    describe = load_judge(Path(report.pipeline))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3)).astype(np.uint8)
    assert describe(pixels).shape == (3, TINY["dim"])
    assert retrieval(pixels, pixels, np.arange(3), describe).all()
    with pytest.raises(ConfigError, match="no part in any"):
        train_stage("judge", "tiny", slides, tmp_path / "x", pipeline="tiny")
    with pytest.raises(ConfigError, match="huge"):
        train_stage("judge", "huge", slides, tmp_path / "x")
