"""The embedding-diffusion stage: its contexts, batches, loss; resumed bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from training.archives import make_archive
from training.calls import train_stage
from zoomldm.archive import open_archive
from zoomldm.cli import app
from zoomldm.data.contexts import ContextStore
from zoomldm.errors import ArchiveError, ConfigError, PipelineError
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.geometry.withheld import is_withheld, withheld_block
from zoomldm.networks.context_dit import ContextDiT, matching_quarter
from zoomldm.pipeline import build_pipeline, load_pipeline
from zoomldm.sampling.draw import sample
from zoomldm.sampling.options import SampleOptions
from zoomldm.training.stages.embedding_diffusion import EmbeddingDiffusionStage


@pytest.fixture(scope="module", autouse=True)
def _few(request: pytest.FixtureRequest):
    patch = pytest.MonkeyPatch()
    patch.setattr("zoomldm.data.contexts.MOST", (20, 20, 16, 12, 8, 6, 4, 3))
    patch.setattr("zoomldm.training.stages.embedding_diffusion.FIXED", 2)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("a1", "a2", "b"):
        path = folder / f"{name}.zldm"
        make_archive(path, build_pipeline("tiny"), 9, 8, seed=ord(name[-1]), levels=())
    (folder / "cases.csv").write_text("file,case\na1.svs,A\na2.svs,A\nb.svs,B\n")
    return folder


@pytest.fixture(scope="module")
def store(data: Path) -> ContextStore:
    archives = [open_archive(data / f"{n}.zldm") for n in ("a1", "b")]
    return ContextStore(build_pipeline("tiny"), archives)


@pytest.fixture
def stage(store: ContextStore) -> EmbeddingDiffusionStage:
    stage = EmbeddingDiffusionStage(build_pipeline("tiny"), store, None, store)
    stage.standardise()
    return stage


def test_contexts_are_the_summarizers(store: ContextStore) -> None:
    pipeline = build_pipeline("tiny")
    for level in (0, 2, 5):
        held = store.levels[level]
        number, row, col = held.patches[1].tolist()
        grid = store.archives[number].grid(level, row, col)
        expected = pipeline.context(grid[None], level)[0]
        np.testing.assert_allclose(held.contexts[1], expected.numpy(), atol=0.02)


def test_parents_cover_their_patches(store: ContextStore) -> None:
    pipeline = build_pipeline("tiny")
    found = 0
    for level in (0, 1, 3):
        held = store.levels[level]
        side = 2**level
        for (number, row, col), parent in zip(held.patches.tolist(), held.parents, strict=True):
            if not parent.any():
                continue
            found += 1
            near = []
            for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
                grid = store.archives[number].grid(level + 1, row - y * side, col - x * side)
                whole = pipeline.context(grid[None], level + 1)
                part = matching_quarter(whole, torch.tensor([y]), torch.tensor([x]))[0]
                near.append(float(abs(part.numpy() - parent).max()))
            assert min(near) < 0.02
    assert found > 5
    assert not store.levels[7].parents.any()


def test_withheld_tissue_is_neither_seen_nor_referred_to(store: ContextStore) -> None:
    rng = np.random.default_rng(0)
    for number, archive in enumerate(store.archives):
        block = withheld_block(archive.mask)
        withheld = {tuple(e) for e in archive.embeddings_of(*np.nonzero(block)).astype(np.float16)}
        for level, held in enumerate(store.levels):
            own = held.patches[held.patches[:, 0] == number]
            assert not is_withheld(archive.mask, block, level, *own[:, 1:].T).any()
        for index, patch in enumerate(store.levels[1].patches):
            if patch[0] == number:
                assert tuple(store.reference(1, index, rng).astype(np.float16)) not in withheld


def test_withheld_patches(data: Path) -> None:
    archive = open_archive(data / "a1.zldm")
    held = ContextStore(build_pipeline("tiny"), [archive], withheld=True).levels[0].patches
    block = withheld_block(archive.mask)
    assert {tuple(p[1:]) for p in held} == {tuple(p) for p in np.argwhere(block)}


def test_references_of_tiles_are_other_tiles(store: ContextStore) -> None:
    rng = np.random.default_rng(0)
    for index, (number, row, col) in enumerate(store.levels[0].patches.tolist()):
        own = store.archives[number].embeddings_of([row], [col])[0].astype(np.float16)
        found = store.reference(0, index, rng)
        assert found.any() and not np.array_equal(found, own.astype(np.float32))


def test_patches_hold_tissue(store: ContextStore) -> None:
    for level, held in enumerate(store.levels):
        assert len(held.patches)
        for number, row, col in held.patches.tolist():
            mask = store.archives[number].mask
            assert tiles_within(mask, np.array([row]), np.array([col]), 2**level) > 0


def test_batch(stage: EmbeddingDiffusionStage) -> None:
    first, second = (stage.batch(np.random.default_rng([0, 3, 0]), 32) for _ in range(2))
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert first["contexts"].shape == first["noise"].shape == (32, 64, 32)
    assert first["parent"].shape == (32, 16, 32) and first["reference"].shape == (32, 32)
    assert first["level"].bincount().tolist() == [4] * 8
    spans = first["time"].sort().values // 31.25
    assert torch.equal(spans, torch.arange(32.0))


def test_conditions_are_left_out(stage: EmbeddingDiffusionStage) -> None:
    rng = np.random.default_rng(0)
    batches = [stage.batch(rng, 32) for _ in range(30)]
    joined = {k: torch.cat([b[k] for b in batches]) for k in batches[0]}
    null = joined["shown"] == COUNT
    reference = joined["reference"].any(1)
    parent = joined["parent"].flatten(1).any(1)
    assert 0.05 < float(null.float().mean()) < 0.15
    assert not (null & (reference | parent)).any()
    assert 0.2 < float(reference.float().mean()) < 0.35
    assert 0.25 < float(parent.float().mean()) < 0.55
    assert not parent[joined["level"] == 7].any()


def test_loss_is_zero_for_the_right_answer(stage: EmbeddingDiffusionStage) -> None:
    batch = stage.batch(np.random.default_rng(0), 8)
    clean = stage.network.standardised(batch["contexts"])
    stage.network.forward = lambda *_: clean  # type: ignore[method-assign]
    losses = stage(batch)
    assert float(losses["loss"]) == 0
    assert {k for k in losses if k != "loss"} == {f"level/{n}" for n in NAMES}


def test_contexts_are_standardised(stage: EmbeddingDiffusionStage, store: ContextStore) -> None:
    means = [
        stage.network.standardised(torch.from_numpy(k.contexts)).mean((0, 1)) for k in store.levels
    ]
    torch.testing.assert_close(torch.stack(means).mean(0), torch.zeros(32), atol=1e-3, rtol=0)
    squares = [
        stage.network.standardised(torch.from_numpy(k.contexts)).square().mean((0, 1))
        for k in store.levels
    ]
    torch.testing.assert_close(torch.stack(squares).mean(0), torch.ones(32), atol=1e-2, rtol=0)


def test_it_learns(stage: EmbeddingDiffusionStage) -> None:
    stage.train()
    optimizer = torch.optim.AdamW(stage.network.parameters(), 3e-3)
    losses = []
    for step in range(40):
        loss = stage(stage.batch(np.random.default_rng(step), 16))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    for key, values in stage.network.named_parameters():
        assert values.grad is not None and values.grad.isfinite().all(), key


@pytest.fixture
def axial(store: ContextStore) -> EmbeddingDiffusionStage:
    pipeline = build_pipeline("tiny")
    sizes = {"context_dim": 32, "reference_dim": 32, "width": 32, "depth": 2, "heads": 2}
    more = {"axes": 24, "unpack": 8, "qk_norm": True, "neighbours": True}
    torch.manual_seed(0)
    pipeline.register_modules(embedding_diffusion=ContextDiT(**sizes, **more))
    stage = EmbeddingDiffusionStage(pipeline, store, None, store)
    stage.standardise()
    return stage


def test_axes_are_those_of_the_contexts(axial: EmbeddingDiffusionStage, store) -> None:
    network = axial.network
    for level in (0, 4, 7):
        contexts = torch.from_numpy(store.levels[level].contexts).float()
        found = network.standardised(contexts, level)
        assert not found[..., 24:].any()
        torch.testing.assert_close(found.mean((0, 1)), torch.zeros(32), atol=1e-2, rtol=0)
        assert 0.9 < float(found[..., :24].square().mean()) < 1.1
        lost = network.restored(found, level) - contexts
        assert float(lost.square().mean()) < 0.02 * float(contexts.var((0, 1)).mean())


def test_it_learns_along_axes(axial: EmbeddingDiffusionStage) -> None:
    axial.train()
    optimizer = torch.optim.AdamW(axial.network.parameters(), 1e-2)
    losses = []
    for step in range(50):
        loss = axial(axial.batch(np.random.default_rng(step), 16))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:5])
    for key, values in axial.network.named_parameters():
        assert values.grad is not None and values.grad.isfinite().all(), key


def test_what_is_right_along_axes_has_no_loss(axial: EmbeddingDiffusionStage) -> None:
    batch = axial.batch(np.random.default_rng(0), 8)
    clean = axial.network.standardised(batch["contexts"], batch["level"])
    axial.network.forward = lambda *_: clean  # type: ignore[method-assign]
    assert float(axial(batch)["loss"]) == 0


def bits(run: Path) -> dict[str, torch.Tensor]:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return {
        f"{f.name}/{k}": v for f in newest.glob("*.safetensors") for k, v in load_file(f).items()
    }


def test_resumed_equals_uninterrupted(data: Path, tmp_path: Path, monkeypatch) -> None:
    stage = "embedding-diffusion"
    train_stage(stage, "tiny", data, tmp_path / "whole")
    draw, count = EmbeddingDiffusionStage.batch, [0]

    def cut(self, rng, size):
        count[0] += 1
        if count[0] == 14:
            raise MemoryError
        return draw(self, rng, size)

    monkeypatch.setattr(EmbeddingDiffusionStage, "batch", cut)
    with pytest.raises(MemoryError):
        train_stage(stage, "tiny", data, tmp_path / "cut")
    assert sorted(p.name for p in (tmp_path / "cut/checkpoints").iterdir()) == ["step-00000010"]
    monkeypatch.setattr(EmbeddingDiffusionStage, "batch", draw)
    train_stage(stage, "tiny", data, tmp_path / "cut")
    whole, cut_ = bits(tmp_path / "whole"), bits(tmp_path / "cut")
    assert whole.keys() == cut_.keys()
    assert all(torch.equal(v, cut_[k]) for k, v in whole.items())


def test_command(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        [
            *("train", "--stage", "embedding-diffusion", "--preset", "tiny", "--pipeline", "tiny"),
            *("--data", str(data), "-o", str(tmp_path / "run"), "--holdout", "B", "--json"),
            *("--cases", str(data / "cases.csv"), "--steps", "4", "--set", "show_every=4"),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["held_out"] == ["b"]
    pipeline, fresh = load_pipeline(report["pipeline"]), build_pipeline("tiny")
    for name in ("unet", "vae", "summarizer", "patch_encoder"):
        assert pipeline.digest(name) == fresh.digest(name)
    assert pipeline.digest("embedding_diffusion") != fresh.digest("embedding_diffusion")
    assert pipeline.digest() != fresh.digest()
    assert pipeline.embedding_diffusion.mean.any()
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    held_out = next(x for x in map(json.loads, lines) if x["kind"] == "held-out")
    wanted = {"seen", "withheld", "held-out", "reference", "parent", "held-out/20x"}
    assert wanted <= held_out.keys()


def test_labels(data: Path, tmp_path: Path) -> None:
    (data / "labels.csv").write_text("file,kind\na1.svs,x\na2.svs,x\nb.svs,y\n")
    arguments = {
        "changes": {"steps": 2, "show_every": 2},
        "labels": data / "labels.csv",
        "label_column": "kind",
    }
    stage = "embedding-diffusion"
    report = train_stage(stage, "tiny", data, tmp_path / "run", **arguments)
    pipeline = load_pipeline(report.pipeline)
    assert pipeline.embedding_diffusion.labels == ["x", "y"]
    options = SampleOptions(steps=1, context_steps=1)
    quick = {"options": options, "output_type": "uint8"}
    assert sample(pipeline, 1, 1, 0, label="y", **quick).shape == (1, 256, 256, 3)
    with pytest.raises(ConfigError, match=r"'z'.*it knows x, y"):
        sample(pipeline, 1, 1, 0, label="z", **quick)
    again = {**arguments, "pipeline": report.pipeline, "finetune": True}
    on = train_stage(stage, "tiny", data, tmp_path / "on", **again)
    assert load_pipeline(on.pipeline).embedding_diffusion.labels == ["x", "y"]
    for wrong, message in [
        ({"labels": data / "cases.csv"}, "no column 'kind'"),
        ({"labels": None, "pipeline": report.pipeline, "finetune": True}, "knows the labels"),
    ]:
        with pytest.raises(ConfigError, match=message):
            train_stage(stage, "tiny", data, tmp_path / "no", **(arguments | wrong))
    with pytest.raises(ConfigError, match="for the stage embedding-diffusion, not for diffusion"):
        train_stage("diffusion", "tiny", data, tmp_path / "no", **arguments)


def test_batches_with_labels(store: ContextStore) -> None:
    """Each item is told its archive's label or the null, and never beside the null level."""
    pipeline = build_pipeline("tiny")
    sizes = {"context_dim": 32, "reference_dim": 32, "width": 32, "depth": 1, "heads": 2}
    pipeline.embedding_diffusion = ContextDiT(**sizes, labels=["p", "q"])
    stage = EmbeddingDiffusionStage(pipeline, store, labels=[1, 0])
    rng = np.random.default_rng(0)
    batches = [stage.batch(rng, 32) for _ in range(20)]
    label = torch.cat([b["label"] for b in batches])
    null = torch.cat([b["shown"] for b in batches]) == COUNT
    assert set(label.tolist()) == {0, 1, 2}
    assert (label[null] == 2).all()
    assert 0.4 < float((label[~null] == 2).float().mean()) < 0.6
    assert stage(batches[0])["loss"].isfinite()
    alone = EmbeddingDiffusionStage(pipeline, store)
    assert "label" not in alone.batch(rng, 8)


def test_archive_of_another_encoder(tmp_path: Path) -> None:
    make_archive(tmp_path / "other.zldm", build_pipeline("tiny", seed=1), levels=())
    with pytest.raises(ArchiveError, match=r"other\.zldm: was made by patch encoder .*pipeline's"):
        train_stage("embedding-diffusion", "tiny", tmp_path, tmp_path / "run")


def test_pipeline_of_another_summarizer(data: Path, tmp_path: Path, monkeypatch) -> None:
    odd = build_pipeline("tiny")
    odd.summarizer = odd.unet
    monkeypatch.setattr("zoomldm.training.train.load_pipeline", lambda _: odd)
    with pytest.raises(PipelineError, match="summarizer"):
        train_stage("embedding-diffusion", "tiny", data, tmp_path / "run", pipeline="odd")
