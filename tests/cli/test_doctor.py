"""`zoomldm doctor`."""

import json
from importlib import resources

import pytest

WEIGHTS = resources.files("zoomldm") / "weights" / "demo" / "model_index.json"


def test_without_weights_it_says_so(run, monkeypatch):
    from zoomldm.errors import PipelineError

    def missing(*_):
        raise PipelineError("pipeline 'demo': no such directory")

    monkeypatch.setattr("zoomldm.pipeline.load_pipeline", missing)
    done = run("doctor", "--json")
    assert done.code == 2
    report = json.loads(done.out)
    assert report["self_test"] == {
        "passed": False,
        "error": "pipeline 'demo': no such directory",
    }
    assert report["versions"]["torch"] and "cpu" in report["devices"]


def test_a_device_that_is_not_there(run):
    done = run("doctor", "--device", "tpu")
    assert done.code == 2 and "tpu" in done.out


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the demo pipeline is not in the package yet")
def test_shipped_pipeline_passes(run):
    done = run("doctor", "--json")
    report = json.loads(done.out)
    assert report["self_test"]["passed"], report["self_test"]
    assert report["self_test"]["device"] in report["devices"]
    assert done.code == 0
