"""`zoomldm models`."""

import json

import pytest

from zoomldm.pipeline import build_pipeline


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoomldm.pipeline.load_pipeline", lambda name: build_pipeline("tiny"))


def test_models_as_json(run) -> None:
    found = json.loads(run("models", "--json").out)
    known = {
        "uni": 1024,
        "uni2": 1536,
        "phikon": 768,
        "hipt": 384,
        "dinov2": 1024,
        "h-optimus-0": 1536,
        "virchow2": 2560,
    }
    assert known.items() <= {e["id"]: e["dim"] for e in found["encoders"]}.items()
    assert found["pipelines"][0]["id"] == "demo"


def test_models_as_a_table(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = run("models").out
    assert "hipt" in out and "MahmoodLab/UNI2-h" in out
