"""The command line called in this process, and slides and archives for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from synthetic import paint_slide

from zoomldm import cli
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.pipeline import build_pipeline


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a refused command."""
        assert self.code == 2, (self.code, self.err)
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("zoomldm: "), self.err
        return lines[0]


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch, capsys) -> Run:
    monkeypatch.setattr("diffusers.utils.logging._tqdm_active", False)  # imported with TQDM on

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["zoomldm", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        return Outcome(code, out, err)

    return call


@pytest.fixture(scope="session")
def slide(tmp_path_factory) -> Path:
    return paint_slide(tmp_path_factory.mktemp("slide") / "a.tif", 1000, 800, tissue=0.8)


@pytest.fixture(scope="session")
def archive(tmp_path_factory, slide) -> Path:
    path = tmp_path_factory.mktemp("archive") / "a.zldm"
    compress(slide, path, CompressOptions(), pipeline=build_pipeline("tiny"), name="tiny")
    return path
