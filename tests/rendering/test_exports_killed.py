"""`zoomldm decompress` killed while several processes draw, and run again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import filled_pipeline

from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering import DecompressOptions, decompress

QUICK = DecompressOptions(steps=2, guidance=1.0)


@pytest.fixture(scope="module")
def pipeline() -> ZoomLDMPipeline:
    return filled_pipeline("tiny-octaves")


@pytest.fixture
def path(make: Callable[..., Path]) -> Path:
    return make(1500, 1100, base=2)


def files(folder: Path) -> dict[str, bytes]:
    """All that decompression wrote, but for the time that it took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name.endswith(".json") and path.parent == folder:
                note = json.loads(data)
                note.pop("seconds")
                data = json.dumps(note).encode()
            found[str(path.relative_to(folder))] = data
    return found


def test_a_command_of_two_processes_killed_goes_on_in_one_to_the_same_bytes(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    saved = tmp_path / "pipeline"
    pipeline.save_pretrained(saved)
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    decompress(path, tmp_path / "whole" / "a.tif", QUICK, pipeline=str(saved))
    code = (
        "import sys\nfrom zoomldm.rendering import DecompressOptions, decompress\n"
        "options = DecompressOptions(steps=2, guidance=1.0, workers=2)\n"
        "if __name__ == '__main__':\n"
        "    decompress(sys.argv[1], sys.argv[2], options, pipeline=sys.argv[3])\n"
    )
    target = tmp_path / "killed" / "a.tif"
    journal = tmp_path / "killed" / "a.tif.part" / "journal.jsonl"
    script = tmp_path / "run.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script), str(path), str(target), str(saved)])
    try:
        while process.poll() is None:
            if journal.exists() and b'"block"' in journal.read_bytes():
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
    finally:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    steps: list[tuple[str, int, int]] = []
    decompress(path, target, QUICK, pipeline=str(saved), progress=lambda *step: steps.append(step))
    assert steps[0][1] > 0  # what was done counts
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
