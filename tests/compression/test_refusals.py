"""What compressing refuses, and what it then leaves behind."""

import numpy as np
import pytest
from synthetic import paint_slide

from compression.conftest import run
from zoomldm.compression import base as base_layer
from zoomldm.compression.compress import CompressOptions, archive_path
from zoomldm.errors import ConfigError, RegionError, SlideError, TargetError
from zoomldm.files import claim


class TestErrors:
    def left(self, folder):
        return sorted(p.name for p in folder.iterdir())

    def test_no_tissue(self, tmp_path, pipeline):
        white = np.full((700, 700, 3), 245, np.uint8)
        slide = paint_slide(tmp_path / "a.tif", 700, 700, picture=white)
        with pytest.raises(SlideError, match=r"no tissue found .*--tissue all"):
            run(slide, tmp_path / "a.zldm", pipeline)
        assert self.left(tmp_path) == ["a.tif"]
        run(slide, tmp_path / "a.zldm", pipeline, tissue="all")

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"base": "40x"}, RegionError),
            ({"base": ""}, RegionError),
            ({"base_codec": "gif"}, ConfigError),
            ({"base_codec": "png", "base_quality": 50}, ConfigError),
            ({"precision": "int4"}, ConfigError),
            ({"tissue": "some"}, ConfigError),
            ({"base_quality": 0}, ConfigError),
            ({"base_quality": 101}, ConfigError),
            ({"ratio": 1.0}, ConfigError),
            ({"ratio": float("nan")}, ConfigError),
        ],
    )
    def test_options(self, options, error):
        with pytest.raises(error) as caught:
            CompressOptions(**options)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("mpp", [0, -1, 50, float("nan")])
    def test_mpp(self, slide, tmp_path, pipeline, mpp):
        with pytest.raises(SlideError, match=r"--mpp .* not plausible"):
            run(slide, tmp_path / "a.zldm", pipeline, mpp=mpp)
        assert self.left(tmp_path) == []

    def test_targets(self, slide, tmp_path, pipeline):
        (tmp_path / "folder.zldm").mkdir()
        for out in (tmp_path / "a.h5", tmp_path / "none" / "a.zldm", tmp_path / "folder.zldm"):
            with pytest.raises(TargetError):
                run(slide, out, pipeline)
        assert self.left(tmp_path) == ["folder.zldm"]
        assert archive_path(slide, tmp_path) == tmp_path / "a.zldm"

    def test_another_process_writes_there(self, slide, tmp_path, pipeline):
        with claim(tmp_path / "a.zldm"), pytest.raises(TargetError, match="another process"):
            run(slide, tmp_path / "a.zldm", pipeline)
        assert self.left(tmp_path) == []

    def test_a_base_layer_finer_than_the_slide(self, slide, tmp_path, pipeline):
        with pytest.raises(ConfigError, match=r"at 5x has 2 um/px, but the slide only 4; .* 2.5x"):
            run(slide, tmp_path / "a.zldm", pipeline, base="5x", mpp=4)
        assert self.left(tmp_path) == []

    def test_a_codec_that_is_not_there(self, slide, tmp_path, pipeline, monkeypatch):
        monkeypatch.setattr("imagecodecs.AVIF", type("Missing", (), {"available": False}))
        with pytest.raises(ConfigError, match="lacks avif"):
            run(slide, tmp_path / "a.zldm", pipeline)
        assert self.left(tmp_path) == []

    def test_slide_is_untouched_by_a_crash(self, slide, tmp_path, pipeline, monkeypatch):
        target = tmp_path / "a.zldm"
        run(slide, target, pipeline)
        sound = target.read_bytes()

        def crash(*_):
            raise RuntimeError("crash")

        monkeypatch.setattr(base_layer, "encode_image", crash)
        with pytest.raises(RuntimeError, match="crash"):
            run(slide, target, pipeline, base_quality=40)
        assert target.read_bytes() == sound and self.left(tmp_path) == ["a.zldm"]
