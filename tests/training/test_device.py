"""`--device` of training."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from training.calls import settings, train_stage
from zoomldm.errors import PipelineError
from zoomldm.training import loop


def test_a_device_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="device 'cuda:77' can't be used; here are cpu"):
        train_stage("diffusion", "tiny", tmp_path, tmp_path / "run", device="cuda:77")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("device", "cpu"), [("cpu", True), ("auto", False)])
def test_the_cpu_is_taken_where_a_gpu_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, cpu: bool
) -> None:
    class FoundError(Exception):
        pass

    def accelerator(**given: object) -> None:
        raise FoundError(given["cpu"])

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(loop, "Accelerator", accelerator)
    stage = SimpleNamespace(sparse=False)
    with pytest.raises(FoundError) as found:
        loop.train(stage, settings("tiny", "diffusion"), tmp_path, device=device)  # type: ignore[arg-type]
    assert found.value.args == (cpu,)
