"""Checkpoints that must be converted, and files that must be refused."""

import argparse
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zoomldm.cli.convert import convert
from zoomldm.errors import PipelineError, TargetError
from zoomldm.networks.embedding_dit import EmbeddingDiT
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import ViTSummarizer
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline, load_pipeline
from zoomldm.released import ConvertOptions, convert_released, names


def _count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_preset_paper_has_the_released_sizes() -> None:
    with torch.device("meta"):
        pipeline = build_pipeline("paper")
    assert isinstance(pipeline.vae, VQAutoencoder)
    assert isinstance(pipeline.summarizer, ViTSummarizer)
    assert _count(pipeline.unet) == 400_920_579
    assert _count(pipeline.vae) == 55_322_782
    assert _count(pipeline.summarizer) == 38_656_000
    assert _count(pipeline.embedding_diffusion) == 130_746_880


def test_sizes_and_both_kinds_of_weights(
    content: dict, save: Callable, small: ZoomLDMPipeline, tmp_path: Path
) -> None:
    path = save({"state_dict": content, "epoch": 3})
    for weights, offset in (("ema", 1), ("raw", 0)):
        report = convert_released(path, tmp_path / weights, ConvertOptions(weights))
        assert (report.embedding_dim, report.levels) == (8, 4)
        assert report.parameters["unet"] == _count(small.unet)
        pipeline = load_pipeline(str(tmp_path / weights))
        for key, value in small.unet.state_dict().items():
            assert torch.equal(pipeline.unet.state_dict()[key], value + offset)
        for part in ("vae", "summarizer"):
            for key, value in getattr(small, part).state_dict().items():
                assert torch.equal(getattr(pipeline, part).state_dict()[key], value)
        assert pipeline.config["source"]["system"]["sha256"] == report.sha256
        assert not list((tmp_path / weights).rglob("*.bin"))
    assert convert_released(path, tmp_path / "ema").done_before
    with pytest.raises(TargetError, match="holds something already"):
        convert_released(path, tmp_path / "ema", ConvertOptions("raw"))


def test_older_spelling_of_the_mlp(content: dict, save: Callable, tmp_path: Path) -> None:
    old = {
        k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v
        for k, v in content.items()
    }
    assert old.keys() != content.keys()
    convert_released(save(content), tmp_path / "new")
    convert_released(save(old), tmp_path / "old")
    new, same = (load_pipeline(str(tmp_path / n)) for n in ("new", "old"))
    assert new.digest("summarizer") == same.digest("summarizer")


def test_keys_that_do_not_fit_are_listed(content: dict, save: Callable, tmp_path: Path) -> None:
    del content["cond_stage_model.encoder.ln.bias"]
    content["model.diffusion_model.out.2.bias"] = torch.zeros(5)
    content["something.else"] = torch.zeros(1)
    with pytest.raises(PipelineError) as caught:
        convert_released(save(content), tmp_path / "out")
    message = str(caught.value)
    assert "missing cond_stage_model.encoder.ln.bias" in message
    assert "model.diffusion_model.out.2.bias is [5], expected [3]" in message
    assert "extra something.else" in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_no_averaged_weights(content: dict, save: Callable, tmp_path: Path) -> None:
    path = save({k: v for k, v in content.items() if not k.startswith("model_ema.")})
    with pytest.raises(PipelineError, match="--raw"):
        convert_released(path, tmp_path / "out")
    convert_released(path, tmp_path / "out", ConvertOptions("raw"))


def _dit_content() -> tuple[EmbeddingDiT, dict]:
    network = EmbeddingDiT(context_dim=32, width=64, depth=1, heads=1, levels=4)
    named = {names.embedding_diffusion_name(k): v.clone() for k, v in network.state_dict().items()}
    ema = {k: v + 1 for k, v in named.items()}
    return network, {"model": named, "ema": ema, "opt": {}, "args": argparse.Namespace(lr=1e-4)}


def test_embedding_diffusion_joins_a_pipeline(
    content: dict, save: Callable, tmp_path: Path
) -> None:
    convert_released(save(content), tmp_path / "out")
    before = load_pipeline(str(tmp_path / "out")).digest("unet")
    network, cdm = _dit_content()
    report = convert_released(save(cdm), tmp_path / "out")
    assert report.parameters == {"embedding_diffusion": _count(network)}
    pipeline = load_pipeline(str(tmp_path / "out"))
    for key, value in network.state_dict().items():
        assert torch.equal(pipeline.embedding_diffusion.state_dict()[key], value + 1)
    assert pipeline.digest("unet") == before
    assert set(pipeline.config["source"]) == {"system", "embedding_diffusion"}
    convert_released(save(cdm), tmp_path / "alone")
    alone = load_pipeline(str(tmp_path / "alone"))
    assert alone.unet is None
    assert alone.embedding_diffusion is not None


class _Command:
    def __reduce__(self) -> tuple:
        return os.system, ("touch " + str(Path(__file__).with_name("executed")),)


@pytest.mark.parametrize("kind", ["torch", "old", "pickle", "pickle4"])
def test_code_in_a_checkpoint_is_refused(kind: str, tmp_path: Path) -> None:
    path, value = tmp_path / "weights.ckpt", {"state_dict": _Command()}
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(value, protocol=4 if kind == "pickle4" else 2))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(PipelineError, match=r"posix\.system|nt\.system") as caught:
        convert_released(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not Path(__file__).with_name("executed").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("left", [0.0, 0.3, 0.99])
def test_truncated_file(content: dict, save: Callable, tmp_path: Path, left: float) -> None:
    path = save(content)
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    with pytest.raises(PipelineError, match="cut short, damaged") as caught:
        convert_released(path, tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [{"conv1.weight": torch.zeros(3)}, {}, [1, 2], torch.zeros(3), {"state_dict": {"a": 1}}],
)
def test_another_model(value: object, save: Callable, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="ZoomLDM") as caught:
        convert_released(save(value), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_targets(content: dict, save: Callable, tmp_path: Path) -> None:
    path = save(content)
    with pytest.raises(TargetError, match="create it first"):
        convert_released(path, tmp_path / "no" / "out")
    with pytest.raises(PipelineError, match="no such file"):
        convert_released(tmp_path / "none.ckpt", tmp_path / "out")


def test_command(content: dict, save: Callable, tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(convert)
    result = CliRunner().invoke(
        app, [str(save(content)), "-o", str(tmp_path / "out"), "--raw", "--json"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["weights"] == "raw"
    assert report["levels"] == 4
