"""`zoomldm convert`: what it refuses, in one line, with nothing run and nothing left behind."""

import os
from pathlib import Path

import pytest
import torch


class Command:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def malicious(path: Path) -> str:
    torch.save({"state_dict": {"betas": torch.zeros(3), "x": Command(path.with_name("ran"))}}, path)
    return "refused, nothing was run"


def truncated(path: Path) -> str:
    torch.save({"betas": torch.zeros(100_000)}, path)
    path.write_bytes(path.read_bytes()[:200_000])
    return "cut short, damaged"


def of_another_model(path: Path) -> str:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(8, 3, 3, 3)}}, path)
    return "not a ZoomLDM checkpoint"


def text(path: Path) -> str:
    path.write_text("<html>not found</html>")
    return "can't be read as a checkpoint"


@pytest.mark.parametrize("make", [malicious, truncated, of_another_model, text])
def test_refused_in_one_line(run, tmp_path: Path, make) -> None:
    path = tmp_path / "weights.ckpt"
    said = make(path)
    line = run("convert", path, "-o", tmp_path / "out").line
    assert said in line and str(path) in line
    assert [p.name for p in tmp_path.iterdir()] == ["weights.ckpt"]
