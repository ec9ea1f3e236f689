"""What a pipeline is used for, on a GPU, beside the same on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import paint_slide
from tiny import filled_pipeline
from typer.testing import CliRunner

from zoomldm.cli import app
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.mil.run import MilOptions, run_mil
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.rendering import DecompressOptions, RenderedSlide, RenderOptions, decompress
from zoomldm.sampling.draw import sample
from zoomldm.sampling.options import SampleOptions

pytestmark = pytest.mark.gpu

PRESETS = ("tiny", "tiny-octaves")
FEW = {"steps": 3, "batch": 4}
# Mean difference of 255. GPUs multiply in TensorFloat-32 within convolutions, with 10 bits.
CLOSE = 2.0
HALF = 8.0


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    return paint_slide(folder / "a.tif", 1000, 800, tissue=0.8)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, slide: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("archives")
    for name in PRESETS:
        compress(slide, folder / f"{name}.zldm", CompressOptions(), pipeline=name)
    return {name: folder / f"{name}.zldm" for name in PRESETS}


def pair(name: str, gpu: torch.device) -> tuple[ZoomLDMPipeline, ZoomLDMPipeline]:
    """The same pipeline on the CPU and on the GPU."""
    return filled_pipeline(name), filled_pipeline(name).to(gpu)


def apart(a: object, b: object) -> float:
    """Mean difference of two images of bytes."""
    one, other = (np.asarray(v).astype(float) for v in (a, b))
    assert one.shape == other.shape
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("name", PRESETS)
def test_a_pipeline_called(gpu: torch.device, name: str) -> None:
    images = []
    generator = torch.Generator().manual_seed(0)
    grids = torch.randn(2, 4, 4, 32, generator=generator)
    for pipeline in pair(name, gpu):
        latents = torch.randn(2, *pipeline.latent_shape, generator=generator.manual_seed(1))
        output = pipeline(grids, 2, num_inference_steps=4, latents=latents, output_type="np")
        images.append(np.asarray(output.images) * 255)  # type: ignore[union-attr]
    assert apart(*images) < CLOSE


def test_half_precision_whole(gpu: torch.device) -> None:
    pipeline = filled_pipeline("tiny").to(gpu)
    grids = torch.randn(1, 2, 2, 32, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(1, *pipeline.latent_shape, generator=torch.Generator().manual_seed(1))
    images = []
    for kind in (torch.float32, torch.bfloat16):
        pipeline = pipeline.to(kind)
        output = pipeline(grids, 1, num_inference_steps=3, latents=latents, output_type="np")
        images.append(np.asarray(output.images) * 255)  # type: ignore[union-attr]
    assert apart(*images) < HALF


@pytest.mark.parametrize("name", PRESETS)
def test_compress(gpu: torch.device, slide: Path, tmp_path: Path, name: str) -> None:
    """Embeddings made on either device are the same to what an archive keeps of them."""
    from zoomldm.archive import open_archive

    found = []
    for i, pipeline in enumerate(pair(name, gpu)):
        path = tmp_path / f"{i}.zldm"
        compress(slide, path, CompressOptions(precision="float16"), pipeline=pipeline, name=name)
        with open_archive(path) as archive:
            found.append(archive.embeddings(0, archive.rows, 0, archive.cols)[archive.mask])
    a, b = (v.astype(np.float64) for v in found)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("name", PRESETS)
def test_decompress(
    gpu: torch.device, archives: dict[str, Path], tmp_path: Path, name: str
) -> None:
    images = []
    options = DecompressOptions(level=0, region=(100, 100, 400, 300), **FEW)
    for i, pipeline in enumerate(_untrained(name, gpu)):
        decompress(archives[name], tmp_path / f"{i}.png", options, pipeline=pipeline)
        images.append(np.asarray(Image.open(tmp_path / f"{i}.png")))
    assert apart(*images) < CLOSE


@pytest.mark.parametrize("name", PRESETS)
def test_a_slide_in_any_order(gpu: torch.device, archives: dict[str, Path], name: str) -> None:
    """A tile alone, and in a region: the same bits on a GPU too; bfloat16 near them."""
    pipeline = _untrained(name, gpu)[1]

    def region(precision, *tiles: tuple[int, int, int]) -> list[np.ndarray]:
        options = RenderOptions(precision=precision, **FEW)
        with RenderedSlide(archives[name], pipeline, options=options) as opened:
            return [np.asarray(opened.read_region((x, y), 0, (s, s))) for x, y, s in tiles]

    (whole,) = region("float32", (0, 0, 512))
    again, tile = region("float32", (256, 256, 256), (256, 0, 256))
    assert np.array_equal(again, whole[256:, 256:]) and np.array_equal(tile, whole[:256, 256:])
    (half,) = region("bfloat16", (0, 0, 512))
    assert apart(half, whole) < HALF


def _untrained(name: str, gpu: torch.device) -> tuple[ZoomLDMPipeline, ZoomLDMPipeline]:
    """The pipeline that the archives were made by, on either device."""
    return build_pipeline(name), build_pipeline(name).to(gpu)


@pytest.mark.parametrize("name", PRESETS)
def test_samples(gpu: torch.device, name: str) -> None:
    """A sample depends on its number alone, and its noise on no device."""
    options = SampleOptions(steps=2, context_steps=2, batch=2)
    cpu, pipeline = pair(name, gpu)
    images = sample(pipeline, 1, 3, 5, output_type="uint8", options=options)
    assert np.array_equal(
        images[:1], sample(pipeline, 1, 1, 5, output_type="uint8", options=options)
    )
    assert apart(images, sample(cpu, 1, 3, 5, output_type="uint8", options=options)) < CLOSE


def test_mil(gpu: torch.device, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = (np.arange(32) // 2 % 2).astype(np.int8)
    bag = np.repeat(np.arange(32), draw.integers(1, 12, 32))
    x = draw.normal(size=(len(bag), 6)).astype(np.float32)
    x[np.searchsorted(bag, np.nonzero(labels)[0])] += 4
    numbers = {"slide_id": np.arange(32), "case_id": np.arange(32) // 2}
    names = {k: np.array([f"{k}-{i}" for i in v]) for k, v in numbers.items()}
    np.savez(tmp_path / "toy.npz", X=x, bag=bag, y=labels, **names)  # type: ignore[arg-type]
    means = []
    for i, device in enumerate(("cpu", str(gpu))):
        out = tmp_path / f"out-{i}"
        out.mkdir()
        options = MilOptions(
            folds=2, models=("clam-sb", "dsmil", "max-pool"), epochs=12, jobs=1, fractions=(1.0,),
            plots=False, device=device,
        )  # fmt: skip
        source = run_mil(tmp_path / "toy.npz", out, options).sources[0]
        means.append([np.mean(list(source.per_fold(m, 1.0).values())) for m in options.models])
    assert np.abs(np.subtract(*means)).max() < 0.15
    assert means[1][2] > 0.8


def test_commands(gpu: torch.device, slide: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> None:
        given = [*map(str, arguments), "--pipeline", "tiny", "--device", str(gpu), "--json"]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        json.loads(done.stdout)

    path = tmp_path / "a.zldm"
    run("compress", slide, "-o", path)
    place = ("--region", "100,100,300,200", "--level", "20x", "--steps", "2")
    run("decompress", path, "-o", tmp_path / "a.png", *place)
    assert Image.open(tmp_path / "a.png").size == (300, 200)
    run("features", path, "-o", tmp_path)
    assert list(tmp_path.rglob("*.h5"))
    quick = ("--steps", "1", "--context-steps", "1")
    run("sample", "--level", "5x", "-n", "2", "-o", tmp_path / "samples", *quick)
    assert len(list((tmp_path / "samples").glob("5x-*.png"))) == 2
