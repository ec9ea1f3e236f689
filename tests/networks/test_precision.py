"""bfloat16 is chosen where it is faster, and warned of where it was asked for and is not."""

import logging
import warnings
from collections.abc import Iterator

import pytest
import torch

from zoomldm.generation.options import RenderOptions
from zoomldm.networks import precision
from zoomldm.networks.precision import dtype_of, fast_bfloat16, warn_if_slow


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    for found in (fast_bfloat16, warn_if_slow):
        found.cache_clear()
    yield
    for found in (fast_bfloat16, warn_if_slow):
        found.cache_clear()


@pytest.mark.parametrize(("half", "chosen"), [(0.5, True), (1.0, False), (100.0, False)])
def test_it_is_measured_once_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, half: float, chosen: bool
) -> None:
    asked: list[torch.dtype] = []

    def seconds(kind: torch.dtype) -> float:
        asked.append(kind)
        return half if kind == torch.bfloat16 else 1.0

    monkeypatch.setattr(precision, "_seconds", seconds)
    # The command line, where a test ran it before, keeps the package's log to itself.
    monkeypatch.setattr(logging.getLogger("zoomldm"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="zoomldm"):
        assert [fast_bfloat16("cpu") for _ in range(3)] == [chosen] * 3
    assert asked == [torch.float32, torch.bfloat16]
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("zoomldm")]
    assert len(set(messages)) == 1
    assert messages[0].startswith("bfloat16 is" if chosen else "float32 is")


def test_an_explicit_request_warns_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda kind: 1.0)
    cpu = torch.device("cpu")
    with pytest.warns(UserWarning, match="bfloat16 is not faster"):
        RenderOptions(precision="bfloat16").autocast(cpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RenderOptions(precision="bfloat16").autocast(cpu)  # once is enough
        RenderOptions().autocast(cpu)


def test_the_type_of_a_network() -> None:
    assert dtype_of(torch.nn.Linear(1, 1).bfloat16()) == torch.bfloat16
    assert dtype_of(torch.nn.ReLU()) == dtype_of(None) == torch.float32
