"""A saved pipeline loads in a process that has imported nothing else of the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zoomldm.diffusion.samplers import SAMPLERS, make_sampler
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.pipeline.presets import SCHEDULE

_SCRIPT = """
import json, sys
import {module}
pipeline = {call}(sys.argv[1])
print(json.dumps({{"digest": pipeline.digest(), "scheduler": type(pipeline.scheduler).__name__}}))
"""


def _loaded_elsewhere(folder: Path, module: str, call: str) -> dict:
    script = _SCRIPT.format(module=module, call=call)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-600:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("sampler", "module", "call"),
    [
        ("plms", "zoomldm", "zoomldm.load_pipeline"),
        ("ddim", "zoomldm.pipeline", "zoomldm.pipeline.ZoomLDMPipeline.from_pretrained"),
    ],
)
def test_our_own_schedulers_load(tmp_path: Path, sampler: str, module: str, call: str) -> None:
    tiny = build_pipeline("tiny")
    tiny.scheduler = make_sampler(sampler, {**SCHEDULE, "prediction_type": "epsilon"})
    saved = ZoomLDMPipeline(**tiny.components)
    saved.save_pretrained(str(tmp_path / "saved"))
    assert "zoomldm.diffusion.samplers" in (tmp_path / "saved" / "model_index.json").read_text()
    found = _loaded_elsewhere(tmp_path / "saved", module, call)
    assert found == {"digest": saved.digest(), "scheduler": SAMPLERS[sampler][0].__name__}


def test_a_saved_pipeline_tells_no_path(tmp_path: Path) -> None:
    """Nor where the networks lay that it was put together from."""
    build_pipeline("tiny").save_pretrained(tmp_path / "first")
    again = ZoomLDMPipeline.from_pretrained(str(tmp_path / "first"))
    again.save_pretrained(tmp_path / "second")
    for file in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file
    assert ZoomLDMPipeline.from_pretrained(str(tmp_path / "second")).digest() == again.digest()


def test_every_component_of_ours_is_imported_with_the_pipeline() -> None:
    """A class that `model_index.json` may name by its module is found after one import."""
    script = """
import importlib, pkgutil, sys
import zoomldm.pipeline
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
known = set(sys.modules)
import zoomldm.diffusion, zoomldm.networks
for room in (zoomldm.diffusion, zoomldm.networks):
    for module in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        found = vars(importlib.import_module(module.name)).values()
        own = [c for c in found if isinstance(c, type) and c.__module__ == module.name]
        if any(issubclass(c, (ModelMixin, SchedulerMixin)) for c in own):
            assert module.name in known, module.name
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:]
