"""An export whose process is killed, its helpers with it, and that is run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from painted import Painted, content, write

from zoomldm.writers.tiff import Tiff

SIZE = 2300, 2500, 4
CODE = """
import sys, time
from pathlib import Path
from painted import Painted, write
from zoomldm.writers.tiff import Tiff

class Slow(Painted):
    def notes(self, block):
        if block.index > 2:
            time.sleep(120)
        return super().notes(block)

if __name__ == "__main__":
    write(Path(sys.argv[1]), Tiff(), Slow(2300, 2500, 4), workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_export_goes_on_to_the_same_bytes(tmp_path: Path, workers: int) -> None:
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "whole" / "a.tif", Tiff(), Painted(*SIZE))
    target = tmp_path / "killed" / "a.tif"
    script = tmp_path / "slow.py"
    script.write_text(CODE)
    journal = tmp_path / "killed" / "a.tif.part" / "journal.jsonl"
    places = os.pathsep.join(path for path in sys.path if path)
    process = psutil.Popen(
        [sys.executable, str(script), str(target), str(workers)],
        env=os.environ | {"PYTHONPATH": places},
        stderr=subprocess.DEVNULL,
    )
    helpers: list[psutil.Process] = []
    try:
        while process.poll() is None:
            if journal.exists() and b'"block"' in journal.read_bytes():
                helpers = process.children(recursive=True)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
    finally:
        process.wait()
    assert process.returncode == -signal.SIGKILL and not target.exists()
    assert len(helpers) >= workers - 1
    _, alive = psutil.wait_procs(helpers, timeout=60)
    assert alive == []
    source = Painted(*SIZE)
    seen: list[int] = []
    write(target, Tiff(), source, progress=lambda done, total: seen.append(done))
    assert seen[0] > 0
    assert content(target) == content(tmp_path / "whole" / "a.tif")
