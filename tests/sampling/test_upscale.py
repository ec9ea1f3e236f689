"""Upscaled images average down to what they were made of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import filled_pipeline

import zoomldm
from zoomldm.archive import open_archive
from zoomldm.archive.base import halve
from zoomldm.diffusion.inversion import InversionSettings
from zoomldm.diffusion.joint import JointSettings
from zoomldm.errors import ConfigError, PipelineError, TargetError
from zoomldm.networks.context_network import ContextNetwork
from zoomldm.networks.lowpass import coarse_planes, enlarged, pooled
from zoomldm.pipeline import PARTS, ZoomLDMPipeline, load_pipeline
from zoomldm.pixels import to_signed
from zoomldm.sampling.output import Levels
from zoomldm.sampling.upscale import UpscaleOptions, upscale
from zoomldm.sampling.upscaler import ImagePyramid, Upscaler, with_means, write_image

DEMO = Path(zoomldm.__file__).parent / "weights" / "demo.zldm"


@pytest.fixture(scope="module")
def octaves() -> ZoomLDMPipeline:
    return filled_pipeline("tiny-octaves")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Coarse noise with black and white in it, of an odd size."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 13, 3), np.uint8).repeat(6, 0).repeat(6, 1)[:53, :77]
    pixels[:8], pixels[-8:] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def read(path: Path | str) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    ("mpp", "factor", "level", "evaluations"),
    [(1.0, 2, "20x", 0), (2.0, 4, "20x", 0), (4.0, 8, "20x", 1), (4.0, 4, "10x", 1)],
)
def test_what_comes_out_averages_down_to_the_image(
    image: Path, tmp_path: Path, octaves, mpp: float, factor: int, level: str, evaluations: int
) -> None:
    options = UpscaleOptions(mpp, factor, steps=1)
    report = upscale(image, tmp_path / "b.png", options, pipeline=octaves)
    wanted, upscaled = read(image), read(report.output)
    assert upscaled.shape == (53 * factor, 77 * factor, 3) and report.output_level == level
    off = np.abs(
        upscaled.reshape(53, factor, 77, factor, 3).mean((1, 3)) - wanted.astype(float)
    ).max()
    assert off <= 0.5 + 1e-6 and report.most_off == pytest.approx(off, abs=1e-3)
    np.testing.assert_allclose(halve(upscaled, factor.bit_length() - 1), wanted, atol=1)
    assert (report.evaluations > 0) == bool(evaluations) and not report.resampled


def test_regions_are_what_the_whole_is(image: Path, tmp_path: Path, octaves) -> None:
    options, pixels = UpscaleOptions(4.0, 8, steps=1), read(image)
    write_image(tmp_path / "p.zldm", pixels, options.level, octaves)
    with open_archive(tmp_path / "p.zldm") as archive:
        assert archive.base
        given = archive, octaves, options.rendering, options.finest
        whole = Upscaler(archive.base, 8, ImagePyramid(*given).read).read(0, 0, 616, 424)
        upscaler = Upscaler(archive.base, 8, ImagePyramid(*given).read)
        for x, y, w, h in ((500, 300, 116, 124), (13, 7, 150, 90), (0, 200, 1, 1)):
            np.testing.assert_array_equal(upscaler.read(x, y, w, h), whole[y : y + h, x : x + w])
        levels = Levels(upscaler.read, upscaler.size, options.finest)
        np.testing.assert_allclose(levels.read(3, 0, 0, 77, 53), pixels, atol=1)


def test_the_means_are_kept_where_there_is_little_room() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
    wanted = rng.choice(np.array([0, 1, 128, 254, 255], np.uint8), (8, 8, 3))
    found = with_means(pixels, wanted).reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert np.abs(found - wanted).max() <= 0.5


def test_a_scale_between_levels_is_brought_to_one(image: Path, tmp_path: Path, octaves) -> None:
    report = upscale(image, tmp_path / "b.png", UpscaleOptions(1.8), pipeline=octaves)
    assert report.resampled and report.level == "5x" and report.size == (69, 48)
    assert read(report.output).shape == (192, 276, 3)


QUICK = {
    "method": "inversion",
    "inversion": InversionSettings(steps=2),
    "joint": JointSettings(start=50, inner=1, seams=50),
}


@pytest.mark.parametrize(("mpp", "level", "seams"), [(1.0, "20x", 50), (2.0, "10x", 0)])
def test_by_inversion(
    image: Path, tmp_path: Path, octaves, mpp: float, level: str, seams: int
) -> None:
    options = UpscaleOptions(mpp, 2, **QUICK)  # type: ignore[arg-type]
    options = replace(options, joint=replace(options.joint, seams=seams))
    report = upscale(image, tmp_path / "b.png", options, pipeline=octaves)
    wanted, upscaled = read(image), read(report.output)
    assert upscaled.shape == (106, 154, 3) and report.output_level == level
    np.testing.assert_allclose(halve(upscaled, 1), wanted, atol=1)
    # 2 of the search; 1 step of all tiles, guided (twice): once, and twice for one move; windows
    tiles, windows = int(mpp / 0.5) ** 2, 25 if seams else 0
    assert report.evaluations == 2 + tiles * 2 * 3 + windows * 2 and report.method == "inversion"
    assert not (tmp_path / "b.png.drawn.part").exists()


def test_by_inversion_of_the_papers_pipeline(image: Path, tmp_path: Path) -> None:
    """Broken off after the search, it goes on without searching again."""
    pipeline, options = filled_pipeline("tiny"), UpscaleOptions(1.0, **QUICK)  # type: ignore
    whole = upscale(image, tmp_path / "c.png", options, pipeline=pipeline)
    seen: list[str] = []

    def broken(what: str, done: int, total: int) -> None:
        if what == "steps":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(image, tmp_path / "b.png", options, pipeline=pipeline, progress=broken)
    report = upscale(
        image,
        tmp_path / "b.png",
        options,
        pipeline=pipeline,
        progress=lambda what, done, total: seen.append(what),
    )
    assert "inverting" not in seen and report.evaluations == whole.evaluations
    np.testing.assert_array_equal(read(report.output), read(whole.output))


def test_a_context_network_reads_contexts_off_the_image(
    image: Path, tmp_path: Path, octaves
) -> None:
    plain = upscale(image, tmp_path / "c.png", UpscaleOptions(4.0, 4, steps=1), pipeline=octaves)
    assert not plain.contexts
    torch.manual_seed(0)
    network = ContextNetwork(width=16, depth=1, context_dim=32)
    torch.nn.init.normal_(network.out.weight)
    parts = {name: getattr(octaves, name) for name in (*PARTS, "scheduler")}
    reading = ZoomLDMPipeline(**parts | {"context_network": network})  # type: ignore[arg-type]
    report = upscale(image, tmp_path / "b.png", UpscaleOptions(4.0, 4, steps=1), pipeline=reading)
    assert report.contexts and report.pipeline_digest != plain.pipeline_digest
    assert (read(report.output) != read(plain.output)).any()
    np.testing.assert_allclose(halve(read(report.output), 2), read(image), atol=1)
    # at 2 mpp the image is latents of 20x, and nothing is drawn that a context could tell of
    assert not upscale(image, tmp_path / "d.png", UpscaleOptions(2.0), pipeline=reading).contexts
    reading.save_pretrained(str(tmp_path / "p"))
    assert load_pipeline(str(tmp_path / "p")).digest() == reading.digest()


def test_the_demos_context_network_reads_contexts_off_held_out_tissue() -> None:
    pipeline = load_pipeline("demo", "cpu")
    network = pipeline.context_network
    with open_archive(DEMO) as archive:
        places = np.argwhere(archive.mask)[::40].tolist()
        assert archive.base is not None
        pixels = np.stack([archive.base.read(64 * c, 64 * r, 64, 64) for r, c in places])
        grids = torch.from_numpy(np.stack([archive.grid(0, r, c) for r, c in places]))
    level, noise = torch.zeros(len(places), dtype=torch.long), torch.full((len(places),), 0.05)
    parents = enlarged(pooled(coarse_planes(to_signed(pixels))))
    with torch.no_grad():
        wanted = network.standardised(pipeline.context(grids, 0))
        found = network.predict(pipeline.vae.from_planes(parents), level, noise)
    error = (found - wanted).square().mean()
    assert error < 0.6 * wanted.square().mean()  # of training's mean context
    assert error < 0.7 * (found.roll(1, 0) - wanted).square().mean()  # of another place's


def test_refused(image: Path, tmp_path: Path, octaves) -> None:
    for bad, line in (
        ({"mpp": 0.5}, "expected about 1 to 64"),
        ({"mpp": 100.0}, "expected about 1 to 64"),
        ({"mpp": -1.0}, "over 0"),
        ({"mpp": 2.0, "factor": 3}, "factor is 3"),
        ({"mpp": 2.0, "factor": 8}, "expected 4 at most"),
        ({"mpp": 8.0, "method": "inversion"}, "method inversion takes images of 1 to 4"),
        ({"mpp": 2.0, "method": "bicubic"}, "expected pyramid or inversion"),
    ):
        with pytest.raises(ConfigError, match=line):
            UpscaleOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no such image"):
        upscale(tmp_path / "none.png", tmp_path / "b.png", UpscaleOptions(2.0), pipeline=octaves)
    with pytest.raises(ConfigError, match="is no image"):
        upscale(__file__, tmp_path / "b.png", UpscaleOptions(2.0), pipeline=octaves)
    with pytest.raises(TargetError, match="is read here"):
        upscale(image, image, UpscaleOptions(2.0), pipeline=octaves)
    with pytest.raises(PipelineError, match="takes no parent"):
        upscale(image, tmp_path / "b.png", UpscaleOptions(2.0), pipeline=filled_pipeline("tiny"))
    assert not (tmp_path / "b.png").exists()
