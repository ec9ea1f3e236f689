"""`zoomldm models`."""

import json

import pytest

from zoomldm.pipeline import build_pipeline


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoomldm.pipeline.load_pipeline", lambda name: build_pipeline("tiny"))


def test_models_as_json(run) -> None:
    found = json.loads(run("models", "--json").out)
    assert {e["id"]: e["dim"] for e in found["encoders"]} == {
        "uni": 1024,
        "uni2": 1536,
        "phikon": 768,
        "hipt": 384,
        "dinov2": 1024,
    }
    assert found["pipelines"][0]["id"] == "demo"


def test_models_as_a_table(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = run("models").out
    assert "hipt" in out and "MahmoodLab/UNI2-h" in out
