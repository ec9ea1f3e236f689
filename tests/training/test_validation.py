"""Validation by likeness, the best weights kept, and the alignment with the patch encoder."""

import json
from pathlib import Path

import pytest
import torch
from tiny import filled_pipeline

from training.archives import make_archive
from training.calls import train_stage
from training.test_loop import BrokenOffError, config
from training.test_sizes import FEW, archives_of_octaves
from training.toy import ToyStage
from zoomldm.archive import open_archive
from zoomldm.data.rasters import RasterPatches, load_raster
from zoomldm.errors import ConfigError
from zoomldm.networks.summarizers import standardise
from zoomldm.pipeline import load_pipeline
from zoomldm.training.alignment import Alignment, at_tokens
from zoomldm.training.loop import train
from zoomldm.training.stage import Stage
from zoomldm.training.stages.diffusion import DiffusionStage
from zoomldm.training.stages.octave import OctaveStage
from zoomldm.training.validation import Best, likeness


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (DiffusionStage, OctaveStage):
        monkeypatch.setattr(stage, "held_out", Stage.held_out)
        monkeypatch.setattr(stage, "images", Stage.images)


class Scored(ToyStage):
    """Best after the second of four validations."""

    scores: tuple[float, ...] = (0.1, 0.7, 0.3, 0.6)
    count = 0

    def validate(self) -> dict[str, float]:
        self.count += 1
        return {"score": self.scores[self.count - 1]}


def weights(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.glob("*.safetensors")}


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    train(Scored(), config(validate_every=5), tmp_path)
    note = json.loads((tmp_path / "best" / "best.json").read_text())
    assert note == {"step": 10, "score": 0.7}
    lines = [json.loads(x) for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [x["score"] for x in lines if x["kind"] == "validation"] == list(Scored.scores)
    assert weights(tmp_path / "best") != weights(tmp_path / "networks")
    other = tmp_path / "ten"
    other.mkdir()
    # Averaged weights: those that a run which ends there gives away, but for its schedule.
    train(Scored(), config(validate_every=5, steps=10, cooldown=0), other)
    same = tmp_path / "same"
    same.mkdir()
    train(Scored(), config(validate_every=5, cooldown=0), same)
    assert weights(same / "best") == weights(other / "networks")


def test_a_best_of_before_is_kept_and_the_interval_is_free(tmp_path: Path) -> None:
    class Cut(Scored):
        def batch(self, rng, size):
            if self.count == 3:
                raise BrokenOffError
            return super().batch(rng, size)

    with pytest.raises(BrokenOffError):
        train(Cut(), config(validate_every=5), tmp_path)
    stage = Scored()
    stage.scores = (0.6, 0.5)
    train(stage, config(validate_every=3), tmp_path)
    assert json.loads((tmp_path / "best" / "best.json").read_text())["score"] == 0.7


def test_a_score_that_is_no_number_is_not_best(tmp_path: Path) -> None:
    def nothing(folder: Path) -> None:
        del folder

    best = Best(tmp_path)
    assert not best.offer(1, {"score": float("nan")}, nothing)
    assert best.offer(2, {"score": -3.0}, nothing)
    assert not best.offer(3, {"score": -3.0}, nothing)
    assert Best(tmp_path).score == -3.0


def test_stages_that_need_held_out_cases_say_so_before_they_begin(tmp_path: Path) -> None:
    class Blind(ToyStage):
        def can_validate(self) -> bool:
            return False

    with pytest.raises(ConfigError, match="validate_every: the stage toy validates on held-out"):
        train(Blind(), config(validate_every=5), tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_likeness() -> None:
    def encoder(tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean((2, 3))

    generator = torch.Generator().manual_seed(0)
    own = torch.rand(20, 3, generator=generator)
    images = (own * 2 - 1)[:, :, None, None].expand(-1, -1, 8, 8)
    assert likeness(encoder, images, own) == pytest.approx({"cosine": 1, "retrieved": 1})
    turned = likeness(encoder, images.roll(1, 0), own)
    assert turned["retrieved"] == 0 and turned["cosine"] < 0.99


def test_tokens_have_the_embeddings_of_the_tiles_below_them() -> None:
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(2, 16, 16, 6, generator=generator)
    means = standardise(large).unflatten(1, (8, 2)).unflatten(3, (8, 2)).mean((2, 4))
    torch.testing.assert_close(at_tokens(large), means.flatten(1, 2))
    four = torch.randn(2, 2, 2, 6, generator=generator)
    tokens = at_tokens(four).unflatten(1, (8, 8))
    assert torch.equal(tokens[:, 3, 4], standardise(four)[:, 0, 1])
    # One tile more a side, the patch begins three tokens down and five to the right in the first.
    shift = torch.tensor([[3, 5], [0, 0]])
    tokens = at_tokens(four, shift).unflatten(1, (8, 8))
    assert torch.equal(tokens[0, 4, 2], standardise(four)[0, 0, 0])
    assert torch.equal(tokens[0, 5, 2], standardise(four)[0, 1, 0])
    assert torch.equal(tokens[0, 4, 3], standardise(four)[0, 0, 1])
    assert torch.equal(tokens[1, 7, 7], standardise(four)[1, 0, 0])


def test_an_alignment_learns_what_it_is_held_to() -> None:
    torch.manual_seed(0)
    block, alignment = torch.nn.Conv2d(5, 7, 1), Alignment(7, 6)
    alignment.watch(block)
    alignment.watch(block)  # once is enough
    x, wanted = torch.randn(3, 5, 16, 16), torch.randn(3, 64, 6)
    optimizer = torch.optim.Adam([*block.parameters(), *alignment.parameters()], 0.02)
    losses = []
    for _ in range(60):
        block(x)
        losses.append(alignment(wanted))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert block.weight.grad is not None and block.weight.grad.abs().sum() > 0
    assert losses[-1] < losses[0] - 0.1
    with torch.no_grad():
        block.eval()(x)
    assert alignment.middle is None


@pytest.mark.usefixtures("_quick")
def test_octaves_are_aligned_and_validated(tmp_path: Path) -> None:
    data = archives_of_octaves(tmp_path)
    changes = {**FEW, "steps": 8, "learning_rate": 3e-3, "warmup": 0, "repa": 0.5}
    run = tmp_path / "run"
    report = train_stage(
        "diffusion", "tiny-octaves", data, run, changes={**changes, "validate_every": 4}
    )
    lines = [json.loads(x) for x in (run / "log.jsonl").read_text().splitlines()]
    apart = [x["repa"] for x in lines if x["kind"] == "train"]
    assert sum(apart[-3:]) < sum(apart[:3])
    found = [x for x in lines if x["kind"] == "validation"]
    assert [x["step"] for x in found] == [4, 8]
    assert all(-1 <= x["cosine"] == x["score"] <= 1 for x in found)
    assert not list(Path(report.pipeline).rglob("*alignment*"))
    assert (run / "best-pipeline" / "model_index.json").is_file()
    assert {p.name for p in (run / "best").iterdir()} == {"unet", "summarizer", "best.json"}
    with open_archive(data / "s.zldm") as archive:
        patches = RasterPatches([load_raster(archive, tmp_path)])
    tiles = patches.tiles(5)
    assert tiles.shifts is not None and not tiles.shifts.any() and len(tiles.pixels) <= 5


def test_without_alignment_a_stage_is_what_it_was() -> None:
    pipeline = filled_pipeline("tiny-octaves")
    parts = pipeline.vae, pipeline.summarizer, pipeline.unet, None
    plain, aligned = OctaveStage(*parts), OctaveStage(*parts, repa=0.5)
    assert set(plain.networks()) == {"unet", "summarizer"}
    assert plain.state_dict().keys() < aligned.state_dict().keys()
    batch = {k: torch.zeros_like(v) for k, v in plain.blank(2).items()}
    batch["noise"] = torch.randn(2, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    errors, likelihood = plain.errors(batch)
    loss, same, others = plain._losses(batch)
    assert torch.equal(loss, errors.mean() + 0.1 * likelihood.mean())
    assert torch.equal(errors, same) and not others
    more, same, others = aligned.train()._losses(batch)
    assert torch.equal(errors, same) and more > loss
    assert set(others) == {"repa"}


@pytest.mark.usefixtures("_quick")
def test_the_papers_diffusion_is_aligned_and_validated(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pipeline = filled_pipeline()
    pipeline.save_pretrained(tmp_path / "pipeline")
    make_archive(tmp_path / "data" / "a.zldm", pipeline, 5, 5)
    run = tmp_path / "run"
    changes = {**FEW, "batch_size": 8, "repa": 0.5, "validate_every": 2}
    report = train_stage(
        "diffusion", "tiny", tmp_path / "data", run, changes=changes,
        pipeline=str(tmp_path / "pipeline"),
    )  # fmt: skip
    lines = [json.loads(x) for x in (run / "log.jsonl").read_text().splitlines()]
    assert all(0 < x["repa"] < 2 for x in lines if x["kind"] == "train")
    (found,) = [x for x in lines if x["kind"] == "validation"]
    assert -1 <= found["cosine"] <= 1
    last, best = (load_pipeline(p) for p in (report.pipeline, str(run / "best-pipeline")))
    assert last.digest() == best.digest()
