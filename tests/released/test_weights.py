"""What the weights of a checkpoint may be: finite, whole or half precision, in either format."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoomldm.errors import PipelineError
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline, load_pipeline
from zoomldm.pipeline.presets import SCHEDULE
from zoomldm.released import convert_released


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("start", ["model_ema.", "first_stage_model.", "cond_stage_model."])
def test_values_that_are_no_numbers_are_refused_by_name(
    content: dict,
    save: Callable,
    tmp_path: Path,
    start: str,
    value: float,
) -> None:
    name = next(k for k, v in content.items() if k.startswith(start) and v.ndim > 1)
    content[name] = content[name].clone()
    content[name].flatten()[-1] = value
    with pytest.raises(PipelineError, match="NaN or infinite") as caught:
        convert_released(save(content), tmp_path / "out")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision_has_the_released_schedule(
    content: dict,
    save: Callable,
    small: ZoomLDMPipeline,
    tmp_path: Path,
    kind: torch.dtype,
) -> None:
    convert_released(save({k: v.to(kind) for k, v in content.items()}), tmp_path / "out")
    pipeline = load_pipeline(str(tmp_path / "out"))
    assert pipeline.scheduler.config["beta_start"] == SCHEDULE["beta_start"]
    assert pipeline.scheduler.config["beta_end"] == SCHEDULE["beta_end"]
    expected = small.summarizer.state_dict()["project.weight"].to(kind).float()
    assert torch.equal(pipeline.summarizer.state_dict()["project.weight"], expected)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_another_schedule_keeps_its_own_ends(
    content: dict,
    save: Callable,
    tmp_path: Path,
    kind: torch.dtype,
) -> None:
    content["betas"] = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()
    convert_released(save({k: v.to(kind) for k, v in content.items()}), tmp_path / "out")
    config = load_pipeline(str(tmp_path / "out")).scheduler.config
    assert config["beta_start"] == pytest.approx(0.00085, rel=5e-3)
    assert config["beta_end"] == pytest.approx(0.012, rel=5e-3)
    content["betas"] = torch.linspace(0.0001, 0.02, 1000)
    with pytest.raises(PipelineError, match="not linear in their square root"):
        convert_released(save({k: v.to(kind) for k, v in content.items()}), tmp_path / "linear")


def test_quantised_weights_are_refused(
    content: dict,
    save: Callable,
    tmp_path: Path,
) -> None:
    name = "cond_stage_model.encoder.ln.bias"
    content[name] = content[name].to(torch.int8)
    with pytest.raises(PipelineError, match=rf"{name} is torch.int8.*quantised"):
        convert_released(save(content), tmp_path / "out")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.ckpt"])
def test_safetensors(content: dict, save: Callable, tmp_path: Path, name: str) -> None:
    convert_released(save(content), tmp_path / "pickled")
    held = {k: v.contiguous().clone() for k, v in content.items()}
    save_file(held, tmp_path / name)
    convert_released(tmp_path / name, tmp_path / "safe")
    pickled, safe = (load_pipeline(str(tmp_path / n)) for n in ("pickled", "safe"))
    assert safe.digest() == pickled.digest()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with pytest.raises(PipelineError, match=r"safetensors .*cut short") as caught:
        convert_released(tmp_path / name, tmp_path / "cut")
    assert "\n" not in str(caught.value)


def test_a_saved_pipeline_with_nan_is_refused(tmp_path: Path) -> None:
    build_pipeline("tiny").save_pretrained(str(tmp_path / "saved"))
    (file,) = (tmp_path / "saved" / "vae").glob("*.safetensors")
    tensors = load_file(file)
    name = next(k for k in tensors if k.endswith("weight"))
    tensors[name].flatten()[0] = math.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(PipelineError, match=f"NaN or infinite values in vae.{name}"):
        load_pipeline(str(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text())
