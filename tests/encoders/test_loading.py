"""Patch encoders of others: found, read, refused, and used by compress."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from synthetic import paint_slide

from zoomldm.archive import open_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.encoders import ENCODERS, EncoderOptions, load_encoder
from zoomldm.encoders.encoder import EncoderPrecision, in_floats, prepared, resized
from zoomldm.encoders.table import Preprocessing
from zoomldm.errors import ArchiveError, ConfigError, PipelineError
from zoomldm.networks.patch_vit import PatchViT, ViTSizes
from zoomldm.pipeline import build_pipeline
from zoomldm.rendering import Cascade

TINY = ViTSizes(dim=64, depth=1, heads=1, hidden=64, patch=32, side=7)
TIMM = {"pretrained_cfg": {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}}


def folder_of(
    path: Path, sizes: ViTSizes = TINY, seed: int = 0, config: dict | None = None
) -> Path:
    """A folder as timm's models lie on the hub."""
    torch.manual_seed(seed)
    path.mkdir()
    save_file(PatchViT(TINY).state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(TIMM if config is None else config))
    return path


@pytest.fixture
def tiles() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)


def test_a_folder_of_timm_s(tmp_path: Path, tiles: np.ndarray) -> None:
    encoder = load_encoder(str(folder_of(tmp_path / "mine")))
    codes = encoder.encode_tiles(tiles)
    assert codes.shape == (3, encoder.embedding_dim) == (3, 64)
    assert codes.dtype == np.float32 and np.isfinite(codes).all()
    torch.manual_seed(0)
    network = PatchViT(TINY).eval()
    x = prepared(torch.from_numpy(tiles).permute(0, 3, 1, 2), Preprocessing(224, *[(0.5,) * 3] * 2))
    with torch.no_grad():
        np.testing.assert_allclose(codes, network(x).numpy(), atol=1e-6)


def test_the_digest_is_of_weights_and_preparation_not_of_the_file(tmp_path: Path) -> None:
    first = load_encoder(str(folder_of(tmp_path / "a")))
    torch.manual_seed(0)
    torch.save(
        {"teacher": {f"backbone.{k}": v for k, v in PatchViT(TINY).state_dict().items()}},
        (tmp_path / "b").with_suffix(".pth"),
    )
    other = folder_of(tmp_path / "b")
    (other / "model.safetensors").unlink()
    (tmp_path / "b.pth").rename(other / "weights.pth")
    assert load_encoder(str(other)).digest == first.digest
    assert load_encoder(str(folder_of(tmp_path / "c", seed=1))).digest != first.digest
    config = {"pretrained_cfg": {**TIMM["pretrained_cfg"], "std": [0.4] * 3}}
    assert load_encoder(str(folder_of(tmp_path / "d", config=config))).digest != first.digest


def test_preparation_is_arithmetic_on_the_whole_tile() -> None:
    flat = torch.full((1, 3, 256, 256), 102.0)
    preprocessing = ENCODERS["uni"].preprocessing
    x = prepared(flat, preprocessing)
    assert x.shape == (1, 3, 224, 224)
    for i in range(3):
        expected = (0.4 - preprocessing.mean[i]) / preprocessing.std[i]
        torch.testing.assert_close(x[0, i], torch.full((224, 224), expected))
    hipt = prepared(flat, ENCODERS["hipt"].preprocessing)
    assert hipt.shape == (1, 3, 256, 256)
    torch.testing.assert_close(hipt, torch.full_like(hipt, -0.2))


def test_hipt_s_checkpoint(tmp_path: Path, tiles: np.ndarray) -> None:
    sizes = ENCODERS["hipt"].sizes
    assert sizes is not None
    torch.manual_seed(0)
    network = PatchViT(sizes).eval()
    state = {f"module.backbone.{k}": v for k, v in network.state_dict().items()}
    state["module.head.mlp.0.weight"] = torch.zeros(2, 2)
    file = tmp_path / "vit256_small_dino.pth"
    torch.save({"teacher": state, "student": {}, "epoch": 3}, file)
    encoder = load_encoder(f"hipt={file}")
    assert encoder.embedding_dim == 384
    with torch.no_grad():
        x = prepared(torch.from_numpy(tiles).permute(0, 3, 1, 2), ENCODERS["hipt"].preprocessing)
        np.testing.assert_allclose(encoder.encode_tiles(tiles), network(x).numpy(), atol=1e-5)
    with pytest.raises(PipelineError, match="could be hipt or kaiko-vits16"):
        load_encoder(str(file))  # of the same sizes, with other preparations


def test_a_folder_of_transformers_is_read(tmp_path: Path, tiles: np.ndarray) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=64
    )
    torch.manual_seed(0)
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path / "phikon")
    encoder = load_encoder(f"phikon={tmp_path / 'phikon'}")
    with torch.no_grad():
        x = prepared(torch.from_numpy(tiles).permute(0, 3, 1, 2), Preprocessing())
        expected = model(pixel_values=x).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode_tiles(tiles), expected, atol=1e-5)
    file = tmp_path / "phikon" / "model.safetensors"
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    assert load_encoder(f"phikon={tmp_path / 'phikon'}").digest == encoder.digest


def test_dinov2_with_registers_by_name_and_by_its_folder(tmp_path: Path, tiles: np.ndarray) -> None:
    """The widths of the released NAIP system's encoder, one block deep."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=1024, num_hidden_layers=1, num_attention_heads=16, mlp_ratio=1,
        image_size=518, patch_size=14, num_register_tokens=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Dinov2WithRegistersModel(config).eval()
    folder = tmp_path / "dinov2"
    model.save_pretrained(folder)
    encoder = load_encoder(f"dinov2={folder}")
    with torch.no_grad():
        x = prepared(torch.from_numpy(tiles).permute(0, 3, 1, 2), ENCODERS["dinov2"].preprocessing)
        expected = model(pixel_values=x).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode_tiles(tiles), expected, atol=1e-5)
    with pytest.raises(PipelineError, match=r"preprocessor_config\.json is missing"):
        load_encoder(str(folder))
    processor = {
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert load_encoder(str(folder)).digest == encoder.digest
    with pytest.raises(PipelineError, match="1024 numbers, phikon has 768"):
        load_encoder(f"phikon={folder}")


def test_resizing_is_pillow_s(tiles: np.ndarray) -> None:
    """The encoders' own transforms resize with Pillow, whose results are whole numbers."""
    plain = Preprocessing(224, (0.0,) * 3, (1.0,) * 3)
    x = prepared(torch.from_numpy(tiles).permute(0, 3, 1, 2), plain).mul(255).round()
    for ours, tile in zip(x, tiles, strict=True):
        resized = np.asarray(Image.fromarray(tile).resize((224, 224), Image.Resampling.BILINEAR))
        difference = np.abs(ours.permute(1, 2, 0).numpy() - resized)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.02


def test_compress_with_it_and_refuse_to_render(tmp_path: Path) -> None:
    slide = paint_slide(tmp_path / "a.tif", 700, 600)
    encoder = load_encoder(str(folder_of(tmp_path / "mine")))
    pipeline = build_pipeline("tiny")
    out = tmp_path / "a.zldm"
    options = CompressOptions(base="none", precision="float16", tissue="all")
    compress(slide, out, options, pipeline=pipeline, name="tiny", encoder=encoder)
    with open_archive(out) as archive:
        stored = archive.manifest.encoder
        assert (stored.id, stored.digest, stored.dim) == (encoder.id, encoder.digest, 64)
        assert archive.embeddings(0, 1, 0, 1).shape == (1, 1, 64)
        with pytest.raises(ArchiveError, match="was made by patch encoder"):
            Cascade(archive, pipeline)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def _pickled(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"teacher": Evil()}))
    return path


def _other(path: Path) -> Path:
    torch.save({"weight": torch.zeros(3)}, path)
    return path


def _cut(path: Path) -> Path:
    save_file(PatchViT(TINY).state_dict(), path)
    path.write_bytes(path.read_bytes()[:900])
    return path


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (None, "uni3", "did you mean uni"),
        (None, "hipt", "on no hub"),
        (None, "hipt=nowhere.pth", "no such file"),
        (_pickled, "hipt={}", "refused|damaged|can't be read"),
        (_other, "hipt={}", "no vision transformer"),
        (_cut, "{}", "cut short or damaged"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, make, name: str, said: str
) -> None:
    file = tmp_path / ("w.safetensors" if make is _cut else "w.pth")
    if make:
        make(file)
    with pytest.raises(PipelineError, match=said) as refused:
        load_encoder(name.format(file))
    assert "\n" not in str(refused.value)
    assert "run" not in capsys.readouterr().out


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="not uni"):
        load_encoder(f"uni={folder_of(tmp_path / 'mine')}")


def test_a_folder_of_unknown_sizes_needs_its_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is none of"):
        load_encoder(str(folder_of(tmp_path / "mine", config={})))


def test_gated_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> str:
        error = huggingface_hub.errors.GatedRepoError
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(PipelineError) as refused:
        load_encoder("uni2")
    message = str(refused.value)
    for part in ("https://huggingface.co/MahmoodLab/UNI2-h", "hf auth login", "uni2=PATH"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["uni", "phikon"])
def test_offline_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PipelineError, match=f"encoder {name}.*--encoder {name}=PATH"):
        load_encoder(name)


def test_a_pipeline_s_encoder_runs_where_it_is_told() -> None:
    encoder = load_encoder("tiny", "meta")
    assert encoder._pipeline.device.type == "meta"
    with pytest.raises(PipelineError, match="device 'cuda:99' can't be used"):
        load_encoder("tiny", "cuda:99")


def test_compress_hands_its_device_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from zoomldm.cli import app

    asked: list[tuple[str, str, str, int]] = []

    def noted(name: str, device: str, options: EncoderOptions) -> None:
        asked.append((name, device, options.precision, options.batch))
        raise PipelineError("far enough")

    monkeypatch.setattr("zoomldm.encoders.load_encoder", noted)
    words = ["compress", str(tmp_path / "a.svs"), "-o", str(tmp_path), "--device", "cpu"]
    how = ["--encoder-precision", "bfloat16", "--encoder-batch", "8"]
    CliRunner().invoke(app, [*words, "--encoder", "uni", "--pipeline", "tiny", *how])
    assert asked == [("uni", "cpu", "bfloat16", 8)]
    assert CliRunner().invoke(app, [*words, *how]).exit_code != 0  # of the pipeline's own


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_the_same_encoder(
    tmp_path: Path, tiles: np.ndarray, precision: EncoderPrecision
) -> None:
    folder = str(folder_of(tmp_path / "mine"))
    whole = load_encoder(folder)
    half = load_encoder(folder, "cpu", EncoderOptions(precision, batch=5))
    assert (half.digest, half.id, half.batch) == (whole.digest, whole.id, 5)
    rounded, exact = half.encode_tiles(tiles), whole.encode_tiles(tiles)
    assert rounded.dtype == np.float32
    cosine = (
        (rounded * exact).sum(1) / np.linalg.norm(rounded, axis=1) / np.linalg.norm(exact, axis=1)
    )
    assert cosine.min() > 0.999 and (rounded != exact).any()


def test_how_an_encoder_runs_is_checked() -> None:
    with pytest.raises(ConfigError, match="encoder batch is 0"):
        EncoderOptions(batch=0)
    with pytest.raises(ConfigError, match="expected float32, float16 or bfloat16"):
        EncoderOptions("int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a pipeline's own patch encoder runs as it is"):
        load_encoder("tiny", "cpu", EncoderOptions("float16"))


def test_embeddings_do_not_vary_with_the_batch(tmp_path: Path) -> None:
    slide = paint_slide(tmp_path / "a.tif", 1300, 1100)
    options = CompressOptions(base="none", precision="float16", tissue="all")
    found = []
    for batch in (3, 32):
        how = EncoderOptions(batch=batch)
        out = tmp_path / f"{batch}.zldm"
        compress(slide, out, options, pipeline="tiny", encoder_options=how)
        with open_archive(out) as archive:
            found.append(archive.embeddings(0, archive.rows, 0, archive.cols))
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


def test_tiles_are_resized_where_the_encoder_is(tiles: np.ndarray) -> None:
    x = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    there = prepared(x, Preprocessing(), "meta")
    assert there.device.type == "meta" and there.shape == (len(tiles), 3, 224, 224)
    apart = (in_floats(x, 224) - resized(x, 224).float()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.25
